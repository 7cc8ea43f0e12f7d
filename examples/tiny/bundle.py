"""Builds the folder of the embedded baseline: model, clips to test on and to learn from, and whom to thank.

    python examples/tiny/bundle.py --model FOLDER --training GROUP=ANNOTATION[@ROOT][:LIMIT] --validation ...

adds such clips to a folder that ``train_tiny.py bundle`` has made, and leaves its model as it is.

The clips are real recordings and mixtures of them that may be passed on: CC0, CC-BY, CC-BY-SA and Free Art.
Test clips are those the model never saw: the corpus's asr_test, six prompts held out of training, 60 new
mixtures of the training sounds and the sounds of aac_test. Calibration clips come from the training split;
training clips are all of it that may be passed on, and mixtures of its sounds. Validation clips, for searches
to choose by, are the corpus's asr_valid, and mixtures that are neither in training nor in the test.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
SPLITS = ("test", "calibration", "training", "validation")
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
    sources: Sequence[Source],
    folder: Path,
    split: str,
    suffixes: Mapping[str, str],
    bundled: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write ``folder/SPLIT.json`` and the clips of all sources as audio files beside it.

    Args:
        sources: the clips; those that may not be passed on are left out, and how many is printed.
        folder: ``data`` of the model's folder.
        split: one of ``SPLITS``.
        suffixes: the file format of a group; Ogg Opus where it gives none.
        bundled: entries of another split. A clip of the same group and name is not written a second time:
            the entry names the file that is there.
    """
    entries = []
    there = {entry["testset_id"]: entry for entry in bundled}
    for source in sources:
        audio = folder / split / source.group
        audio.mkdir(parents=True, exist_ok=True)
        rows = read_entries(source.annotation)
        free = [row for row in rows if is_free(row["licence"])]
        print(f"{split}/{source.group}: {len(rows) - len(free)} of {len(rows)} may not be passed on")
        for row, name in zip(free[: source.limit], clip_names(free), strict=False):
            identity = f"{source.group}/{name}"
            kept = {field: row[field] for field in FIELDS if field in row}
            if identity in there:
                path = there[identity]["path"]
                assert kept["text"] == there[identity]["text"], f"{identity}: another clip of that name"
            else:
                wave, rate = soundfile.read(source.root / row["path"], dtype="float32")
                assert rate == RATE, f"{row['path']}: {rate} Hz"
                file = audio / (name + suffixes.get(source.group, ".ogg"))
                write_audio(file, wave)
                path = file.relative_to(folder).as_posix()
            entries.append({"path": path, "testset_id": identity, **kept})
    text = json.dumps({"annotation": entries}, indent=1, ensure_ascii=False)
    (folder / f"{split}.json").write_text(text + "\n", encoding="utf-8")


def read_entries(annotation: Path) -> list[dict[str, Any]]:
    """The entries of an annotation as they stand there."""
    entries: list[dict[str, Any]] = json.loads(annotation.read_text(encoding="utf-8"))["annotation"]
    return entries


def clip_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The files' names; where two folders have a file of one name, with the folder before it."""
    paths = [Path(row["path"]) for row in rows]
    uses = Counter(path.stem for path in paths)
    return [path.stem if uses[path.stem] == 1 else f"{path.parent.name}_{path.stem}" for path in paths]


def write_audio(file: Path, wave: np.ndarray) -> None:
    """FLAC keeps every sample; Ogg Opus at 30 kbit/s takes a fifth of the room."""
    if file.suffix == ".flac":
        soundfile.write(file, wave, RATE, subtype="PCM_16")
    else:
        soundfile.write(file, wave, RATE, format="OGG", subtype="OPUS", compression_level=0.92)


def attribution(data: Path) -> str:
    """Markdown that names the author and the licence of the weights and of every clip below ``data``."""
    lines = []
    entries = [entry for split in SPLITS for entry in read_entries(data / f"{split}.json")]
    for entry in {entry["path"]: entry for entry in entries}.values():
        cells = (entry["path"], entry["licence"], entry["attribution"], entry["source"])
        escaped = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
        lines.append("| " + " | ".join(escaped) + " |")
    return WEIGHTS + "\n".join(lines) + "\n"


def bundle_more(training: Sequence[str], validation: Sequence[str], model: Path) -> None:
    """Write further clips of sources as ``read_sources`` takes them, and whom to thank for all clips.

    A split without sources is left as it is.
    """
    data = model / "data"
    if training:
        bundle_clips(read_sources(training), data, "training", {}, read_entries(data / "calibration.json"))
    if validation:
        bundle_clips(read_sources(validation), data, "validation", {})
    (model / "ATTRIBUTION.md").write_text(attribution(data), encoding="utf-8")


def main() -> None:
    """Add training and validation clips to a folder that is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--training", nargs="+", default=[], help="GROUP=ANNOTATION[@ROOT][:LIMIT]")
    parser.add_argument("--validation", nargs="+", default=[], help="as --training")
    args = parser.parse_args()
    bundle_more(args.training, args.validation, args.model)


if __name__ == "__main__":
    main()
