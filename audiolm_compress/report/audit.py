"""An audit of annotations as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from audiolm_compress.data.findings import Audit, Finding, Group, Part
from audiolm_compress.report.json_form import written
from audiolm_compress.report.section import Section

_SHOWN_RATES = 20


def sections(found: Audit, groups: int) -> list[Section]:
    """The tables of an audit, those without rows left out.

    Args:
        found: what the tables are about.
        groups: how many sources and tasks are shown.
    """
    names = labels(found.parts)
    made = [
        Section(
            "Annotations",
            ("annotation", "entries", *_FIGURES),
            [_row(name, part) for name, part in zip(names, found.parts, strict=True)],
        ),
        Section(
            "By source and task",
            ("source, task", "entries", *_FIGURES),
            [_row(name, group) for name, group in named_groups(found)[:groups]],
        ),
        Section("Audio files", ("annotation", "kind", "entries"), _audio(names, found.parts)),
        Section("Findings", ("finding", "annotation", "entries", "share"), findings(found)),
        Section("Shared by two annotations", ("annotations", "what", "different ones"), leaks(found)),
    ]
    return [section for section in made if section.body]


def labels(parts: Sequence[Part]) -> list[str]:
    """Annotations by the names of their files where these differ."""
    short = [PurePath(part.name).name for part in parts]
    return short if len(set(short)) == len(short) else [part.name for part in parts]


def named_groups(found: Audit) -> list[tuple[str, Group]]:
    """Groups, the largest first, by source and task, and by annotation where there are several."""
    names = labels(found.parts)
    several = len(names) > 1
    made = [
        (f"{name + ': ' if several else ''}{source or 'no source'}, {task}", group)
        for name, part in zip(names, found.parts, strict=True)
        for (source, task), group in part.groups.items()
    ]
    return sorted(made, key=lambda pair: -pair[1].entries)


def findings(found: Audit) -> list[tuple[str, ...]]:
    """How often each kind was found in each annotation."""
    return [
        (kind, name, f"{part.findings[kind]}", f"{part.findings[kind] / part.entries:.2%}")
        for kind in found.examples
        for name, part in zip(labels(found.parts), found.parts, strict=True)
        if part.findings[kind]
    ]


def leaks(found: Audit) -> list[tuple[str, ...]]:
    """What each two annotations share."""
    names = labels(found.parts)
    return [
        (f"{names[leak.first]} and {names[leak.second]}", kind, f"{leak.count}")
        for kind, shared in found.leaks.items()
        for leak in shared
    ]


def lines(found: Audit, groups: int) -> list[str]:
    """The first findings of each kind, and the notes; ``groups`` as for :func:`sections`."""
    names = short_names(found)
    made = []
    for kind, examples in found.examples.items():
        if not examples:
            continue
        total = sum(part.findings[kind] for part in found.parts)
        more = f" and {total - len(examples)} more" if total > len(examples) else ""
        made.append(f"{kind}: {'; '.join(in_words(one, names) for one in examples)}{more}")
    hidden = sum(len(part.groups) for part in found.parts) - groups
    left_out = [f"by source and task: {hidden} smaller groups are in the JSON"] if hidden > 0 else []
    return [*made, *left_out, *found.notes]


def short_names(found: Audit) -> dict[str, str]:
    """What an annotation is called by what it was given as."""
    return {part.name: name for part, name in zip(found.parts, labels(found.parts), strict=True)}


def in_words(finding: Finding, names: Mapping[str, str]) -> str:
    """Where and what."""
    detail = f" ({finding.detail})" if finding.detail else ""
    return f"{names[finding.annotation]} {finding.index} {finding.path}{detail}"


def to_json(found: Audit) -> str:
    """Everything, with a line end."""
    content: dict[str, Any] = {
        "schema": 1,
        "annotations": [_part(part) for part in found.parts],
        "leaks": {
            kind: [
                {
                    "first": found.parts[leak.first].name,
                    "second": found.parts[leak.second].name,
                    "count": leak.count,
                }
                for leak in shared
            ]
            for kind, shared in found.leaks.items()
        },
        "examples": {kind: [asdict(one) for one in examples] for kind, examples in found.examples.items()},
        "notes": found.notes,
    }
    return written(content)


_FIGURES = ("files", "hours", "median\ns", "5 to 95 %\ns", "longest\ns", "median\nwords")


def _row(name: str, held: Part | Group) -> tuple[str, ...]:
    seconds = held.seconds
    if not seconds.count:
        lengths = ["", "", "", ""]
    else:
        lengths = [
            f"{held.file_seconds / 3600:.2f}",
            f"{seconds.quantile(0.5):.2f}",
            f"{seconds.quantile(0.05):.2f} to {seconds.quantile(0.95):.2f}",
            f"{seconds.largest:.2f}",
        ]
    words = held.words.quantile(0.5)
    return (name, f"{held.entries}", f"{held.files}", *lengths, "" if math.isnan(words) else f"{words:.0f}")


def _audio(names: Sequence[str], parts: Sequence[Part]) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    for name, part in zip(names, parts, strict=True):
        made += [(name, f"{rate} Hz", f"{count}") for rate, count in part.rates.most_common(_SHOWN_RATES)]
        made += [
            (name, f"{number} channel{'s' if number > 1 else ''}", f"{count}")
            for number, count in part.channels.most_common(_SHOWN_RATES)
        ]
    return made


def _part(part: Part) -> dict[str, Any]:
    return {
        "annotation": part.name,
        "entries": part.entries,
        "files": part.files,
        "file_seconds": round(part.file_seconds, 3),
        "seconds": part.seconds.figures(),
        "words": part.words.figures(),
        "rates": dict(part.rates),
        "channels": dict(part.channels),
        "findings": dict(part.findings),
        "groups": [
            {
                "source": source,
                "task": task,
                "entries": group.entries,
                "files": group.files,
                "file_seconds": round(group.file_seconds, 3),
                "seconds": group.seconds.figures(),
                "words": group.words.figures(),
            }
            for (source, task), group in part.groups.items()
        ],
    }
