"""The randomisation test is exact for few clips, and right as often as it says for many."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.randomisation import p_lower, p_two_sided


def test_few_clips_are_counted_out() -> None:
    """Of the eight flips of 1, 2 and 4 those with sums of at most -5 are -7 and -5."""
    assert p_lower([1.0, -2.0, -4.0]) == 2 / 8
    assert p_lower([-1.0, -2.0, -4.0]) == 1 / 8
    assert p_lower([1.0, 2.0, 4.0]) == 1.0
    assert p_lower([0.0, 0.0]) == 1.0


def test_drawn_flips_estimate_all_of_them() -> None:
    """Sixteen clips: 65,536 flips are few enough to count here."""
    differences = np.random.default_rng(3).normal(-0.3, 1.0, 16)
    flips = np.array(list(product((-1.0, 1.0), repeat=16)))
    exact = np.mean(flips @ differences <= differences.sum() + 1e-9)
    assert p_lower(differences) == pytest.approx(exact, abs=0.01)


def test_both_directions_count() -> None:
    """Sums of 1, -2 and -4 are as large as their -5 in four of eight flips: -7, -5, 5 and 7."""
    assert p_two_sided([1.0, -2.0, -4.0]) == p_two_sided([-1.0, 2.0, 4.0]) == 4 / 8
    assert p_two_sided([0.0, 1.0, 1.0, 0.0, 1.0]) == 2 / 8
    assert p_two_sided([0.0, 0.0]) == 1.0
    many = np.random.default_rng(4).normal(0.4, 1.0, 40)
    one_side = p_lower(-many)
    assert p_two_sided(many) == pytest.approx(2 * one_side, rel=0.3) and one_side < 0.05


def test_equal_systems_differ_by_chance_as_often_as_it_says() -> None:
    """Differences as skewed and tied as those of word errors are, and none of them real."""
    generator = np.random.default_rng(0)
    errors = generator.poisson(0.4, (2, 400, 24))
    pairs = list(zip(*errors, strict=True))
    found = [p_lower(second - first, seed=trial) for trial, (first, second) in enumerate(pairs)]
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.07
    found = [p_two_sided(second - first, seed=trial) for trial, (first, second) in enumerate(pairs)]
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.07
    assert np.mean(np.array(found) <= 0.01) <= 0.02


def test_nothing_is_no_evidence() -> None:
    with pytest.raises(DataError, match="found \\(0,\\)"):
        p_lower([])
    with pytest.raises(DataError, match="found \\(0,\\)"):
        p_two_sided([])
