"""The Pareto front and the best of it, against the definition and by hand."""

from __future__ import annotations

import random

import pytest

from audiolm_compress.search.front import best_of, pareto_front


def dominates(one: tuple[float, ...], other: tuple[float, ...], maximize: tuple[bool, ...]) -> bool:
    gains = [(a - b) if more else (b - a) for a, b, more in zip(one, other, maximize, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_dominates(seed: int) -> None:
    """Few values an objective, so that points are equal in some or in all."""
    chance = random.Random(seed)
    maximize = (False, True, False)
    points = [tuple(float(chance.randint(0, 3)) for _ in maximize) for _ in range(20)]
    front = pareto_front(points, maximize)
    for index, point in enumerate(points):
        dominated = any(dominates(other, point, maximize) for other in points)
        assert (index in front) is not dominated


def test_the_first_objective_decides_then_the_others_then_the_order() -> None:
    points = [(0.3, 9.0), (0.2, 5.0), (0.2, 7.0), (0.2, 7.0), (0.1, 1.0)]
    maximize = (False, True)
    assert best_of(points, maximize, [True] * 5) == 4
    assert best_of(points, maximize, [True, True, True, True, False]) == 2
    assert best_of(points, (True, True), [True] * 5) == 0
    assert best_of(points, maximize, [False] * 5) is None
