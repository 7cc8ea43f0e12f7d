"""Bootstrap intervals: against theory, and paired where pairing matters."""

from __future__ import annotations

import numpy as np
import pytest

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.bootstrap import interval, paired_bootstrap


def test_interval_of_a_mean_follows_the_normal_law() -> None:
    scores = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    bounds = interval(scores)
    error = scores.std() / np.sqrt(len(scores))
    assert bounds.low == pytest.approx(scores.mean() - 1.96 * error, abs=0.1 * error)
    assert bounds.high == pytest.approx(scores.mean() + 1.96 * error, abs=0.1 * error)


def test_a_constant_gain_is_found_through_noise_that_both_share() -> None:
    generator = np.random.default_rng(2)
    baseline = generator.normal(5.0, 2.0, size=100)
    candidate = baseline + 0.1 + generator.normal(0.0, 0.01, size=100)
    result = paired_bootstrap(baseline, candidate)
    assert result.difference == pytest.approx(0.1, abs=0.01)
    assert not result.within_noise and result.difference_interval.low > 0
    assert result.baseline_interval.high > result.candidate_interval.low


def test_equal_texts_are_within_noise() -> None:
    result = paired_bootstrap([1.0, 0.0, 2.0], [1.0, 0.0, 2.0])
    assert result.within_noise and result.difference == 0.0
    assert (result.difference_interval.low, result.difference_interval.high) == (0.0, 0.0)


def test_wer_is_a_ratio_of_sums() -> None:
    result = paired_bootstrap([0, 5, 1], [1, 5, 1], [1, 10, 4], resamples=2000)
    assert result.baseline == pytest.approx(6 / 15) and result.candidate == pytest.approx(7 / 15)
    assert result.within_noise
    assert 0.0 <= result.baseline_interval.low <= result.baseline <= result.baseline_interval.high <= 0.5
    assert result.clips == 3 and result.resamples == 2000


def test_same_seed_same_interval_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(3).random(50)
    first = interval(scores, seed=7)
    assert first == interval(scores, seed=7) != interval(scores, seed=8)
    monkeypatch.setattr("audiolm_compress.metrics.bootstrap._BLOCK", 1000)
    assert interval(scores, seed=7) == first


def test_impossible_inputs() -> None:
    with pytest.raises(DataError, match="0 clips"):
        interval([])
    with pytest.raises(DataError, match="weight"):
        interval([1.0, 2.0], [0.0, 0.0])
