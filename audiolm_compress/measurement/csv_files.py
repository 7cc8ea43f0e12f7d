"""Answers and scores of every clip as CSV, for spreadsheets and for test sets whose answers are handed in."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from audiolm_compress.measurement.measurements import ClipResult, Edits, Measurements
from audiolm_compress.metrics.scores import SCORES

_EDITS = tuple(field.name for field in fields(Edits))
_HEADER = ("testset_id", "task", "source", "text", "reference", *_EDITS, *SCORES, "seconds", "path")


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
    files.append(_write(folder / f"{side}_scores.csv", _HEADER, rows))
    return files


def _row(clip: ClipResult) -> Sequence[Any]:
    return (
        clip.testset_id,
        clip.task,
        clip.source,
        clip.text,
        " | ".join(clip.references),
        *(getattr(clip.edits, name, None) for name in _EDITS),
        *(clip.scores[name].value if name in clip.scores else None for name in SCORES),
        clip.seconds,
        clip.path,
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path
