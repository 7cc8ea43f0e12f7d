"""What the result file tells about a training: its data, its stages and their curves."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpus import is_training
from shards import read_clips, shard_names

from audiolm_compress.training import CURVE


def count_data(folders: Sequence[Path]) -> dict[str, Any]:
    """Clips and hours of the training shards, by kind and by voice or collection."""
    clips = [c for f in folders for n in shard_names(f) if is_training(n) for c in read_clips(f, n)]
    voices = Counter("real sounds" if c.task != "asr" else voice_of(c.source) for c in clips)
    hours = {
        kind: round(
            sum(c.samples for c in clips if (c.task == "asr") == (kind == "speech")) / 16000 / 3600, 2
        )
        for kind in ("speech", "sounds")
    }
    return {"clips": len(clips), "hours": hours, "clips_by_source": dict(voices.most_common())}


def voice_of(source: str) -> str:
    """``flite:slt`` and the like; all of espeak's voices as one, and real prompts by how they were made."""
    if source.startswith("audio/"):
        return "asterisk, as recorded"
    return source.partition(":")[0] if source.startswith("espeak") else source


def read_stage(folder: Path) -> dict[str, Any]:
    """Steps, seconds and curve of a stage; the clock of a stage that was continued starts again."""
    curve = json.loads((folder / CURVE).read_text(encoding="utf-8"))
    clock = [point["seconds"] for point in curve if "seconds" in point]
    ends = [a for a, b in itertools.pairwise([*clock, 0.0]) if b < a]
    return {"steps": curve[-1]["step"], "seconds": round(sum(ends)), "curve": curve}
