"""Answers and scores of every clip as CSV, for spreadsheets and for test sets whose answers are handed in."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from audiolm_compress.measurement.measurements import ClipResult, Measurements

_SCORES = (
    "testset_id",
    "task",
    "text",
    "reference",
    "errors",
    "words",
    "wer",
    "cider_d",
    "spider",
    "seconds",
    "path",
)


def write_clip_csv(folder: str | Path, side: str, measurements: Measurements) -> list[Path]:
    """Write ``<side>_<kind>.csv`` (``testset_id,text``) per kind of task, and ``<side>_scores.csv``.

    Args:
        folder: existing folder.
        side: begins the file names, such as ``baseline``.
        measurements: of that side.

    Several references of a clip are joined by `` | ``. Scores that a clip does not have stay empty.

    Returns:
        The files, which are UTF-8 with a header line.
    """
    folder = Path(folder)
    files = []
    for kind in dict.fromkeys(clip.kind for clip in measurements.clips):
        texts = [(clip.testset_id, clip.text) for clip in measurements.clips if clip.kind == kind]
        files.append(_write(folder / f"{side}_{kind}.csv", ("testset_id", "text"), texts))
    rows = map(_row, measurements.clips)
    files.append(_write(folder / f"{side}_scores.csv", _SCORES, rows))
    return files


def _row(clip: ClipResult) -> Sequence[Any]:
    rate = clip.errors / clip.words if clip.errors is not None and clip.words else None
    return (
        clip.testset_id,
        clip.task,
        clip.text,
        " | ".join(clip.references),
        clip.errors,
        clip.words,
        rate,
        clip.cider_d,
        clip.spider,
        clip.seconds,
        clip.path,
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path
