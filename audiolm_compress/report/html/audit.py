"""An audit of annotations as one page with plots."""

from __future__ import annotations

from collections.abc import Sequence

from audiolm_compress import __version__
from audiolm_compress.data.findings import Audit
from audiolm_compress.data.tally import Tally
from audiolm_compress.report.audit import in_words, labels, named_groups, sections, short_names
from audiolm_compress.report.html.bars import Bar, Group, bars
from audiolm_compress.report.html.charts import figure, legend
from audiolm_compress.report.html.frame import document
from audiolm_compress.report.html.markup import Markup, bullets, element, fold, foreign, joined, table

_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 60.0, 300.0)
_GROUPS = 40
_WORDS = (0.0, 1.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)


def page(found: Audit) -> str:
    """The whole document."""
    tables = {section.title: section for section in sections(found, _GROUPS)}
    shown = {
        title: element(
            "div",
            table(
                [name.replace("\n", ", ") for name in section.header],
                [[foreign(cell) for cell in row] for row in section.body],
                label=title,
            ),
            class_="panel",
        )
        for title, section in tables.items()
    }
    names = labels(found.parts)
    entries = sum(part.entries for part in found.parts)
    parts = {
        "Summary": shown.pop("Annotations"),
        "Findings": joined(
            [shown.pop("Findings", ""), shown.pop("Shared by two annotations", ""), _examples(found)]
        ),
        "Lengths": joined(
            [
                _shares("Clips by length, seconds", names, [part.seconds for part in found.parts], _SECONDS),
                _shares("Texts by length, words", names, [part.words for part in found.parts], _WORDS),
            ]
        ),
        "Sources": joined([_groups(found), shown.pop("By source and task", "")]),
        "Audio": joined(shown.values()),
        "Method": element("div", bullets(found.notes), class_="panel") if found.notes else Markup(""),
    }
    return document(
        "Data audit",
        f"{entries} entries in {', '.join(part.name for part in found.parts)}.",
        parts,
        kind="Data audit",
        version=__version__,
    )


def _examples(found: Audit) -> Markup:
    names = short_names(found)
    folds = []
    for kind, examples in found.examples.items():
        total = sum(part.findings[kind] for part in found.parts)
        folds.append(
            fold(
                f"{kind}: {len(examples)} of {total}",
                bullets(foreign(in_words(one, names)) for one in examples),
            )
        )
    return joined(folds)


def _shares(title: str, names: Sequence[str], tallies: Sequence[Tally], edges: Sequence[float]) -> Markup:
    """How large a part of each annotation lies in each interval."""
    counts = [tally.between(edges) for tally in tallies]
    groups = []
    for place, edge in enumerate(edges):
        if not any(count[place] for count in counts):
            continue
        last = place + 1 == len(edges)
        heading = f"{edge:g} and more" if last else f"{edge:g} to under {edges[place + 1]:g}"
        found = [
            Bar(
                name,
                100 * count[place] / tally.count,
                f"{count[place]} ({count[place] / tally.count:.1%})",
                series,
            )
            for series, (name, count, tally) in enumerate(zip(names, counts, tallies, strict=True))
            if tally.count
        ]
        groups.append(Group(heading, tuple(found)))
    if not groups:
        return Markup("")
    key = legend(names) if len(names) > 1 else None
    return element("div", figure(title, key, bars(title, groups)), class_="panel")


def _groups(found: Audit) -> Markup:
    title = "Entries by source and task"
    held = named_groups(found)[:_GROUPS]
    groups = [Group(name, (Bar(name, group.entries, f"{group.entries}", 0),)) for name, group in held]
    return element("div", figure(title, bars(title, groups)), class_="panel")
