"""Builds the folder of the embedded baseline: model, clips to calibrate and to test on, and whom to thank.

The clips are real recordings and mixtures of them that may be passed on: CC0, CC-BY, CC-BY-SA and Free Art.
Test clips are those the model never saw: the corpus's asr_test, six prompts held out of training, 60 new
mixtures of the training sounds and the sounds of aac_test. Calibration clips come from the training split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from mixtures import is_free
from shards import RATE

WEIGHTS = """# Whom to thank

## Weights

The speech encoder is that of Whisper tiny.en, unchanged, under this licence:

> MIT License. Copyright (c) 2022 OpenAI
>
> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
> associated documentation files (the "Software"), to deal in the Software without restriction,
> including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense,
> and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so,
> subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial
> portions of the Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
> LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN
> NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY,
> WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
> SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

The audio encoder, the connector and the language model were trained for this package by the scripts in
`examples/`. YAMNet (Apache-2.0, the TensorFlow authors) was the audio encoder's teacher; none of its
weights are in here.

## Clips

All clips were changed: decoded, mixed down to one channel at 16 kHz, trimmed, rescaled and coded. A
mixture lies under the terms of all recordings in it; one with a CC-BY-SA or Free Art recording is
passed on under that licence.

| clip | licence | author | from |
|---|---|---|---|
"""
FIELDS = ("text", "texts", "task", "licence", "attribution", "source", "source_file", "duration")


@dataclass(frozen=True)
class Source:
    """Entries to bundle: an annotation, what its paths are relative to, the group's name, how many."""

    annotation: Path
    root: Path
    group: str
    limit: int | None = None


def read_sources(texts: Sequence[str]) -> list[Source]:
    """``GROUP=ANNOTATION[:LIMIT]`` with an optional ``@ROOT`` behind the annotation."""
    sources = []
    for text in texts:
        group, _, rest = text.partition("=")
        rest, _, limit = rest.partition(":")
        file, _, root = rest.partition("@")
        annotation = Path(file)
        sources.append(
            Source(
                annotation, Path(root) if root else annotation.parent, group, int(limit) if limit else None
            )
        )
    return sources


def bundle_clips(
    sources: Sequence[Source], folder: Path, split: str, suffixes: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Write ``folder/SPLIT.json`` and the clips of all sources as audio files beside it; returns the entries.

    ``suffixes`` gives the file format of a group; Ogg Opus where it gives none.
    """
    entries = []
    for source in sources:
        audio = folder / split / source.group
        audio.mkdir(parents=True, exist_ok=True)
        rows = json.loads(source.annotation.read_text(encoding="utf-8"))["annotation"]
        rows = [row for row in rows if is_free(row["licence"])][: source.limit]
        for row in rows:
            wave, rate = soundfile.read(source.root / row["path"], dtype="float32")
            assert rate == RATE, f"{row['path']}: {rate} Hz"
            file = audio / (Path(row["path"]).stem + suffixes.get(source.group, ".ogg"))
            write_audio(file, wave)
            kept = {name: row[name] for name in FIELDS if name in row}
            path = file.relative_to(folder).as_posix()
            entries.append({"path": path, "testset_id": f"{source.group}/{file.stem}", **kept})
    text = json.dumps({"annotation": entries}, indent=1, ensure_ascii=False)
    (folder / f"{split}.json").write_text(text + "\n", encoding="utf-8")
    return entries


def write_audio(file: Path, wave: np.ndarray) -> None:
    """FLAC keeps every sample; Ogg Opus at 30 kbit/s takes a fifth of the room."""
    if file.suffix == ".flac":
        soundfile.write(file, wave, RATE, subtype="PCM_16")
    else:
        soundfile.write(file, wave, RATE, format="OGG", subtype="OPUS", compression_level=0.92)


def attribution(entries: Sequence[dict[str, Any]]) -> str:
    """Markdown that names the author and the licence of the weights and of every clip."""
    lines = []
    for entry in entries:
        cells = (entry["path"], entry["licence"], entry["attribution"], entry["source"])
        escaped = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
        lines.append("| " + " | ".join(escaped) + " |")
    return WEIGHTS + "\n".join(lines) + "\n"
