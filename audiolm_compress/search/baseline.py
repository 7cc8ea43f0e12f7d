"""The baseline's measurements, made once for a study and machine.

Latencies are only comparable on one machine, so every machine measures the baseline itself; all trials of
that machine are compared with the same figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from pathlib import Path

import torch

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.measurement.process import measure
from audiolm_compress.passes.base import Progress
from audiolm_compress.recipe import Recipe
from audiolm_compress.run_data import checked_clips


def shared_baseline(folder: Path, recipe: Recipe, device: str, progress: Progress) -> Measurements:
    """The baseline of ``recipe`` as measured on this machine, now or by an earlier process.

    Processes that come at the same time wait for the first: the system frees the lock of one that is killed.

    Args:
        folder: of the study; the file is ``baselines/MACHINE-HASH.json`` in it.
        recipe: baseline, test clips, seed and how to measure.
        device: where the model runs.
        progress: where to show the state.

    Raises:
        AudioLMError: the clips or the baseline cannot be used.
    """
    from filelock import FileLock

    clips = checked_clips(recipe, progress).source
    asked = [
        recipe.baseline,
        recipe.seed,
        clips.model_dump(mode="json"),
        recipe.benchmark.model_dump(mode="json"),
        device,
        torch.get_num_threads(),
    ]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    machine = re.sub(r"[^\w.-]", "_", platform.node())
    file = folder / "baselines" / f"{machine}-{digest}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            progress.stage("measuring the baseline")
            found = measure(
                recipe.baseline,
                clips,
                recipe.benchmark,
                device=device,
                seed=recipe.seed,
                name="baseline",
                progress=progress,
            )
            write_whole(file, json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n")
        return Measurements.from_dict(json.loads(file.read_text(encoding="utf-8")))


def write_whole(file: Path, text: str) -> None:
    """Write a file that others may read at any time: they find the old one or the new one."""
    work = file.with_name(f".{file.name}.{platform.node()}-{os.getpid()}")
    work.write_text(text, encoding="utf-8")
    work.replace(file)
