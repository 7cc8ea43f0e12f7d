"""Several models in one plane: what each costs, and how good it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from audiolm_compress.report.html.charts import SERIES, chart, dot, line, ticks, words
from audiolm_compress.report.html.markup import Markup

_HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT = 300, 28, 262, 12, 96


@dataclass(frozen=True)
class Point:
    """One model: its cost, its score and the 95 % interval of the score."""

    name: str
    cost: float
    score: float
    low: float
    high: float


def front(points: Sequence[Point], *, lower_is_better: bool) -> list[Point]:
    """Those that no other point beats in cost and score, by rising cost."""
    sign = 1 if lower_is_better else -1
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, sign * point.score)):
        if not found or sign * point.score < sign * found[-1].score:
            found.append(point)
    return found


def pareto(label: str, points: Sequence[Point], *, cost: str, score: str, lower_is_better: bool) -> Markup:
    """Numbered dots with intervals; a dashed line joins those that none beats.

    Args:
        label: what is shown.
        points: the models, numbered in this order.
        cost: title of the horizontal axis, less is better.
        score: title of the vertical axis.
        lower_is_better: of the score.
    """
    across = ticks(0, max(point.cost for point in points))
    known = [v for point in points for v in (point.low, point.score, point.high) if math.isfinite(v)]
    upright = ticks(min(known), max(known))

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * value / across[-1]

    def y(value: float) -> float:
        inside = min(max(value, upright[0]), upright[-1])  # infinite ends are drawn at the rim
        return _BOTTOM - (_BOTTOM - _TOP) * (inside - upright[0]) / (upright[-1] - upright[0])

    marks = [words(0, 13, f"{score}, {'less' if lower_is_better else 'more'} is better", "value")]
    for value in upright:
        marks.append(line(_LEFT, y(value), _RIGHT, y(value), "grid"))
        marks.append(words(_LEFT, y(value) + 4, f"{value:g}", "tick end", dx=-8))
    for value in across:
        marks.append(line(x(value), _BOTTOM, x(value), _BOTTOM + 5, "grid"))
        marks.append(words(x(value), _BOTTOM + 19, f"{value:g}", "tick middle"))
    marks.append(words(_RIGHT, _HEIGHT - 4, f"{cost}, less is better", "value end"))
    best = front(points, lower_is_better=lower_is_better)
    for before, after in pairwise(best):
        marks.append(line(x(before.cost), y(before.score), x(after.cost), y(before.score), "front"))
        marks.append(line(x(after.cost), y(before.score), x(after.cost), y(after.score), "front"))
    for index, point in enumerate(points):
        marks.append(line(x(point.cost), y(point.low), x(point.cost), y(point.high), "whisker"))
        marks.append(dot(x(point.cost), y(point.score), f"side{index % SERIES} ringed", 10))
        marks.append(
            words(x(point.cost), y(point.score) + 4, str(index + 1), f"on-side{index % SERIES} middle")
        )
    told = "; ".join(f"{i}, {p.name}: {p.cost:.4g}, {p.score:.4g}" for i, p in enumerate(points, start=1))
    return chart(f"{label}. {cost} against {score}. {told}", _HEIGHT, marks)
