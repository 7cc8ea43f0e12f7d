"""A sample or a split of an annotation as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audiolm_compress.data.sample import Sample
from audiolm_compress.data.split import Split
from audiolm_compress.data.strata import Stratum
from audiolm_compress.report.json_form import written
from audiolm_compress.report.section import Section

_SHOWN = 40


def section(found: Sample | Split) -> Section:
    """Entries of each kind, the most frequent first, then of all."""
    counts, columns = _counts(found)
    body = [(_name(found.by, stratum), *map(str, row)) for stratum, row in counts[:_SHOWN]]
    if len(counts) > _SHOWN:
        body.append((f"{len(counts) - _SHOWN} others", *_sums([row for _, row in counts[_SHOWN:]])))
    if len(counts) > 1:
        body.append(("all", *_sums([row for _, row in counts])))
    title = "Drawn" if isinstance(found, Sample) else "Parts"
    return Section(title, (", ".join(found.by) or "entries", *columns), body)


def lines(found: Sample | Split) -> list[str]:
    """What the counts alone do not tell."""
    made = list(found.notes)
    if isinstance(found, Split):
        made.append(f"{found.groups} groups of entries that stay together")
        for place, name in enumerate(found.files):
            lacking = sum(1 for row in found.entries.values() if not row[place])
            if lacking:
                made.append(f"{name} has no entry of {lacking} of the {len(found.entries)} kinds")
    return made


def to_json(found: Sample | Split) -> str:
    """Everything, with a line end."""
    counts, columns = _counts(found)
    files = {"sample": found.path} if isinstance(found, Sample) else found.files
    content: dict[str, Any] = {
        "schema": 1,
        "files": {name: str(path) for name, path in files.items()},
        "kinds": [
            {
                "by": dict(zip(found.by, stratum, strict=True)),
                "entries": dict(zip(columns, row, strict=True)),
            }
            for stratum, row in counts
        ],
        "notes": found.notes,
    }
    if isinstance(found, Split):
        content["groups"] = found.groups
    return written(content)


def _counts(found: Sample | Split) -> tuple[list[tuple[Stratum, Sequence[int]]], tuple[str, ...]]:
    """Rows with their kinds, the most frequent first, and the names of the columns."""
    rows: dict[Stratum, Sequence[int]]
    if isinstance(found, Sample):
        rows = {stratum: (count, found.drawn[stratum]) for stratum, count in found.entries.items()}
        columns: tuple[str, ...] = ("found", "drawn")
    else:
        rows = {stratum: (sum(row), *row) for stratum, row in found.entries.items()}
        columns = ("found", *found.files)
    return sorted(rows.items(), key=lambda pair: (-pair[1][0], pair[0])), columns


def _name(by: Sequence[str], stratum: Stratum) -> str:
    return ", ".join(value or f"no {key}" for key, value in zip(by, stratum, strict=True)) or "all"


def _sums(rows: Sequence[Sequence[int]]) -> list[str]:
    return [str(sum(column)) for column in zip(*rows, strict=True)]
