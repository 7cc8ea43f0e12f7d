"""Horizontal bars in groups, one bar a side, each with its value behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audiolm_compress.report.html.charts import SERIES, box, chart, line, words
from audiolm_compress.report.html.markup import Markup

_WIDEST = 72  # per cent; the rest is for the value behind the bar
_WIDE_ENOUGH = 10  # per cent; a segment that takes its value inside
_THICK, _GAP, _HEAD, _BETWEEN = 16, 4, 20, 14


@dataclass(frozen=True)
class Bar:
    """One side's figure.

    Attributes:
        name: of the side.
        value: length of the bar.
        shown: the value in words, with its unit.
        series: which of the sides' colours.
        spread: 5th and 95th percentile, drawn as a whisker.
        segments: (name, value) that the bar consists of, from the left; none: one plain bar.
    """

    name: str
    value: float
    shown: str
    series: int
    spread: tuple[float, float] | None = None
    segments: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Group:
    """Bars under one heading."""

    name: str
    bars: tuple[Bar, ...]


def bars(label: str, groups: Sequence[Group]) -> Markup:
    """All groups on one scale that starts at zero."""
    ends = [
        max(bar.value, *(bar.spread or ())) if bar.spread else bar.value for g in groups for bar in g.bars
    ]
    scale = _WIDEST / (max(ends, default=0) or 1)
    marks: list[Markup] = []
    y = 0.0
    for group in groups:
        marks.append(words(0, y + 13, group.name, "name"))
        y += _HEAD
        for bar in group.bars:
            marks += _bar(bar, y, scale)
            y += _THICK + _GAP
        y += _BETWEEN
    told = "; ".join(f"{g.name}: " + ", ".join(f"{bar.name} {bar.shown}" for bar in g.bars) for g in groups)
    return chart(f"{label}. {told}", max(y - _BETWEEN, 1), marks)


def _bar(bar: Bar, y: float, scale: float) -> list[Markup]:
    marks = []
    if bar.segments:
        x = 0.0
        for index, (name, value) in enumerate(bar.segments):
            width = value * scale
            told = f"{bar.name}, {name}: {value:.2f}"
            marks.append(box(x, y, width, _THICK, f"part{index % SERIES}", told))
            if width >= _WIDE_ENOUGH:
                marks.append(words(x + width / 2, y + _THICK - 4, f"{value:.0f}", "on-part"))
            x += width
    else:
        marks.append(box(0, y, bar.value * scale, _THICK, f"side{bar.series % SERIES}", bar.name))
    end = bar.value
    if bar.spread:
        low, high = bar.spread
        middle = y + _THICK / 2
        marks.append(line(low * scale, middle, high * scale, middle, "whisker"))
        marks += [line(x * scale, middle - 4, x * scale, middle + 4, "whisker") for x in (low, high)]
        end = max(end, high)
    marks.append(words(end * scale, y + _THICK - 3, bar.shown, "value", dx=7))
    return marks
