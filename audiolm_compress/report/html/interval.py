"""One difference with its interval beside zero."""

from __future__ import annotations

import math

from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.report.html.charts import box, chart, dot, line
from audiolm_compress.report.html.markup import Markup

_HEIGHT = 26


def interval(label: str, found: PairedResult, class_: str, *, lower_is_better: bool) -> Markup:
    """The difference as a dot, its 95 % interval as a line; to the right of zero is better.

    The scale is the score's own: zero stands in the middle, and the farther end of the interval near the rim.
    An end that is infinite is drawn at the rim.

    Args:
        label: the same in words.
        found: the comparison.
        class_: ``better``, ``worse`` or ``even``, which colours it.
        lower_is_better: of the score.
    """
    sign = -1 if lower_is_better else 1
    ends = [sign * value for value in (found.difference_interval.low, found.difference_interval.high)]
    point = sign * found.difference
    reach = max(abs(value) for value in (*ends, point) if math.isfinite(value)) * 1.12 or 1.0

    def place(value: float) -> float:
        return 50 + 50 * min(max(value / reach, -1.0), 1.0)

    low, high, middle = place(min(ends)), place(max(ends)), _HEIGHT / 2
    marks = [
        box(0, middle - 0.5, 100, 1, "track"),
        line(50, 2, 50, _HEIGHT - 2, "zero"),
        line(low, middle, high, middle, f"range {class_}"),
        dot(place(point), middle, f"point {class_}"),
    ]
    return chart(label, _HEIGHT, marks)
