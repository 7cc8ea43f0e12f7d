"""Bootstrap intervals: against theory, and paired where pairing matters."""

from __future__ import annotations

import numpy as np
import pytest

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.bootstrap import Interval, interval, paired_bootstrap


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


def test_few_clips_that_differ_are_no_evidence() -> None:
    """Four coins fall on one side in one of eight throws, whatever number of clips is equal."""
    equal = np.zeros(200)
    four, eight = equal.copy(), equal.copy()
    four[:4] = eight[:8] = 1.0
    assert paired_bootstrap(equal, four).p_value == 2 / 2**4
    assert paired_bootstrap(equal, four).within_noise
    assert paired_bootstrap(equal, eight).p_value == 2 / 2**8
    assert not paired_bootstrap(equal, eight).within_noise


def test_wer_is_a_ratio_of_sums() -> None:
    result = paired_bootstrap([0, 5, 1], [1, 5, 1], [1, 10, 4], resamples=2000)
    assert result.baseline == pytest.approx(6 / 15) and result.candidate == pytest.approx(7 / 15)
    assert result.within_noise and result.p_value == 1.0
    assert 0.0 <= result.baseline_interval.low <= result.baseline <= result.baseline_interval.high <= 1.0
    assert result.clips == 3 and result.resamples == 2000


def test_one_clip_tells_nothing_of_the_spread() -> None:
    """Word errors are at least 0, a share of right answers at most 1; a difference may be anything."""
    assert interval([3.0], [2.0]) == Interval(0.0, np.inf)
    assert interval([1.0]) == Interval(0.0, 1.0)
    result = paired_bootstrap([1.0], [2.0])
    assert result.difference_interval == Interval(-np.inf, np.inf)
    assert result.within_noise and result.p_value == 1.0


def test_clips_that_are_all_alike_leave_no_width() -> None:
    assert interval([0.0] * 9) == Interval(0.0, 0.0)
    bounds = interval([0.3, 0.6, 1.5], [1.0, 2.0, 5.0])
    assert bounds.low == bounds.high == pytest.approx(0.3)
    result = paired_bootstrap([0.1] * 9, [0.4] * 9)
    assert result.difference_interval.low == result.difference_interval.high == pytest.approx(0.3)
    assert result.p_value == 2 / 2**9 and not result.within_noise


def test_clips_without_reference_words_count_with_others_alone() -> None:
    """A draw of none but the empty reference has no rate, and is left out."""
    bounds = interval([2.0, 1.0, 0.0], [0.0, 5.0, 5.0])
    assert 0.0 <= bounds.low < 0.3 < bounds.high < np.inf


def test_same_seed_same_interval_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(3).random(50)
    first = interval(scores, seed=7)
    assert first == interval(scores, seed=7) != interval(scores, seed=8)
    monkeypatch.setattr("audiolm_compress.metrics.bootstrap._BLOCK", 1000)
    again = interval(scores, seed=7)
    assert (again.low, again.high) == pytest.approx((first.low, first.high), rel=1e-12)


def test_impossible_inputs() -> None:
    with pytest.raises(DataError, match="0 clips"):
        interval([])
    with pytest.raises(DataError, match="weight"):
        interval([1.0, 2.0], [0.0, 0.0])
    with pytest.raises(DataError, match="paired"):
        paired_bootstrap([1.0], [1.0, 2.0])
