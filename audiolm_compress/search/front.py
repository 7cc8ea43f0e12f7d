"""Which trials are worth keeping: the Pareto front, and the best of those that meet the goals."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """Indices of the points that no other point dominates, in their order.

    A point dominates another if it is at least as good in every objective and better in one; equal points do
    not dominate each other.

    >>> pareto_front([(1, 5), (2, 6), (2, 4), (3, 6)], maximize=(False, True))
    [0, 1]
    """
    signs = [-1 if more else 1 for more in maximize]
    costs = [tuple(sign * value for sign, value in zip(signs, point, strict=True)) for point in points]
    return [
        index
        for index, cost in enumerate(costs)
        if not any(other != cost and all(a <= b for a, b in zip(other, cost, strict=True)) for other in costs)
    ]


def best_of(
    points: Sequence[Sequence[float]], maximize: Sequence[bool], allowed: Sequence[bool]
) -> int | None:
    """The allowed point that is best in the first objective; later objectives break ties, then the order.

    >>> best_of([(1, 5), (2, 6), (1, 7)], maximize=(False, True), allowed=(True, True, True))
    2
    """
    signs = [-1 if more else 1 for more in maximize]
    candidates = [index for index, met in enumerate(allowed) if met]
    return min(
        candidates,
        key=lambda index: tuple(s * v for s, v in zip(signs, points[index], strict=True)),
        default=None,
    )
