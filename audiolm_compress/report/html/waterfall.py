"""How much each pass took away: what is left after it, and what was there before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audiolm_compress.report.html.charts import box, chart, line, words
from audiolm_compress.report.html.markup import Markup

_HEAD, _THICK, _BETWEEN = 19, 14, 15


@dataclass(frozen=True)
class Stage:
    """One row.

    Attributes:
        name: of the pass, or of a model where nothing is taken away.
        before: the amount before it; None for a model.
        after: the amount after it.
        shown: both in words.
    """

    name: str
    before: float | None
    after: float
    shown: str


def waterfall(label: str, stages: Sequence[Stage]) -> Markup:
    """Rows from the first model down to the last, on one scale that starts at zero."""
    scale = 100 / (max((max(stage.after, stage.before or 0) for stage in stages), default=0) or 1)
    marks: list[Markup] = []
    y = 0.0
    for index, stage in enumerate(stages):
        marks += [words(0, y + 13, stage.name, "name"), words(100, y + 13, stage.shown, "value end")]
        top = y + _HEAD
        if stage.before is None:
            marks.append(box(0, top, stage.after * scale, _THICK, "side0" if index == 0 else "side1"))
        else:
            kept, more = min(stage.before, stage.after), stage.after > stage.before
            marks.append(box(0, top, kept * scale, _THICK, "kept"))
            width = abs(stage.before - stage.after) * scale
            marks.append(box(kept * scale, top, width, _THICK, "grown" if more else "saved"))
        y = top + _THICK + _BETWEEN
        if index + 1 < len(stages):
            marks.append(line(stage.after * scale, top + _THICK, stage.after * scale, y + _HEAD, "thread"))
    told = "; ".join(f"{stage.name}: {stage.shown}" for stage in stages)
    return chart(f"{label}. {told}", max(y - _BETWEEN, 1), marks)
