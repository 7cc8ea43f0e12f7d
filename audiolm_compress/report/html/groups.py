"""Scores of the parts of the test set: by task, by source and by length."""

from __future__ import annotations

from audiolm_compress.measurement.measurements import Group, Measurements
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.markup import Markup, element, joined, table
from audiolm_compress.report.html.verdict import bounds, quiet


def groups(content: Content) -> Markup:
    """A table for each way to divide the clips; "" where no model was divided."""
    first = next(iter(content.sides.values()))
    tables = []
    for by in dict.fromkeys(group.by for group in first.groups):
        tables.append(element("div", element("h3", f"By {by}"), _table(content, by), class_="panel"))
    return joined(tables)


def _table(content: Content, by: str) -> Markup:
    first = next(iter(content.sides.values()))
    shown = [group for group in first.groups if group.by == by]
    scores = [name for name in SCORES if any(name in group.scores for group in shown)]
    header: list[object] = [by, "clips"]
    header += [joined([SCORES[score].title, quiet(side)]) for score in scores for side in content.sides]
    body = []
    for group in shown:
        cells: list[object] = [group.name or f"no {by}", group.clips]
        for score in scores:
            cells += [_cell(_same(side, group), score) for side in content.sides.values()]
        body.append(cells)
    return table(header, body, label=f"Scores by {by}")


def _same(side: Measurements, group: Group) -> Group | None:
    return next((other for other in side.groups if (other.by, other.name) == (group.by, group.name)), None)


def _cell(group: Group | None, score: str) -> Markup:
    if group is None or score not in group.scores:
        return quiet("n/a")
    found = group.scores[score]
    return joined([f"{found.value:.4f}", quiet(bounds(found.low, found.high))])
