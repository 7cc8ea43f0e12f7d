"""An audit of annotations as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from audiolm_compress.data.findings import Audit, Finding, Group, Part, all_groups
from audiolm_compress.report.json_form import written
from audiolm_compress.report.section import Section

SHOWN_GROUPS = 40
_SHOWN_RATES = 20


def sections(found: Audit) -> list[Section]:
    """The tables of an audit, those without rows left out."""
    made = [
        Section("Annotations", ("annotation", "entries", *_FIGURES), [_row(p.name, p) for p in found.parts]),
        Section(
            "By source and task",
            ("source, task", "entries", *_FIGURES),
            [_row(name, group) for name, group in islice(named_groups(found), SHOWN_GROUPS)],
        ),
        Section("Audio files", ("annotation", "kind", "files"), _audio(found.parts)),
        Section("Findings", ("finding", *(part.name for part in found.parts)), findings(found)),
        Section("Shared by two annotations", ("annotations", "what", "different ones"), leaks(found)),
    ]
    return [section for section in made if section.body]


def named_groups(found: Audit) -> list[tuple[str, Group]]:
    """Groups under names that tell source and task, and the annotation where there are several."""
    several = len(found.parts) > 1
    return [
        (f"{part.name + ': ' if several else ''}{source or 'no source'}, {task}", group)
        for part, source, task, group in all_groups(found)
    ]


def findings(found: Audit) -> list[tuple[str, ...]]:
    """How often each kind was found in each annotation."""
    return [(kind, *(f"{part.findings[kind]}" for part in found.parts)) for kind in found.examples]


def leaks(found: Audit) -> list[tuple[str, ...]]:
    """What each two annotations share."""
    return [
        (f"{found.parts[leak.first].name} and {found.parts[leak.second].name}", kind, f"{leak.count}")
        for kind, shared in found.leaks.items()
        for leak in shared
    ]


def lines(found: Audit) -> list[str]:
    """The first findings of each kind, and the notes."""
    made = []
    for kind, examples in found.examples.items():
        total = sum(part.findings[kind] for part in found.parts)
        more = f" and {total - len(examples)} more" if total > len(examples) else ""
        made.append(f"{kind}: {'; '.join(map(in_words, examples))}{more}")
    hidden = len(named_groups(found)) - SHOWN_GROUPS
    left_out = [f"{hidden} smaller groups are in the JSON alone"] if hidden > 0 else []
    return [*made, *left_out, *found.notes]


def in_words(finding: Finding) -> str:
    """Where and what."""
    detail = f" ({finding.detail})" if finding.detail else ""
    return f"{finding.annotation} entry {finding.index} {finding.path}{detail}"


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


_FIGURES = ("hours", "median s", "5 to 95 %", "longest s", "median words")


def _row(name: str, held: Part | Group) -> tuple[str, ...]:
    seconds = held.seconds
    if not seconds.count:
        lengths = ["", "", "", ""]
    else:
        lengths = [
            f"{seconds.total / 3600:.2f}",
            f"{seconds.quantile(0.5):.2f}",
            f"{seconds.quantile(0.05):.2f} to {seconds.quantile(0.95):.2f}",
            f"{seconds.largest:.2f}",
        ]
    words = held.words.quantile(0.5)
    return (name, f"{held.entries}", *lengths, "" if math.isnan(words) else f"{words:.0f}")


def _audio(parts: Sequence[Part]) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    for part in parts:
        made += [
            (part.name, f"{rate} Hz", f"{count}") for rate, count in part.rates.most_common(_SHOWN_RATES)
        ]
        made += [
            (part.name, f"{number} channel{'s' if number > 1 else ''}", f"{count}")
            for number, count in part.channels.most_common(_SHOWN_RATES)
        ]
    return made


def _part(part: Part) -> dict[str, Any]:
    return {
        "annotation": part.name,
        "entries": part.entries,
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
                "seconds": group.seconds.figures(),
                "words": group.words.figures(),
            }
            for (source, task), group in part.groups.items()
        ],
    }
