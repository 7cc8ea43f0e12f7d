"""How far chance in the choice of test clips moves a score, and whether two models differ beyond it.

A corpus figure is R = sum(a) / sum(w) over clips with amounts a and weights w: word errors over reference
words for WER, clip scores over ones for a mean such as CIDEr-D. CIDEr-D's document frequencies stay those of
the full set; drawing clips anew would otherwise also change what a word is worth.

Intervals come from the studentised bootstrap over clips (bootstrap-t; Efron and Tibshirani 1993, chapter
12). Each draw of n clips with replacement has a figure R*, so many of its own standard errors away from R
(the error of a ratio is the linearised one: Cochran 1977, section 2.11):

    t* = (R* - R) / s*,    s^2 = n / (n - 1) * sum((a - R w)^2) / sum(w)^2

R's own s makes quantiles of t* the interval. For a figure, whose distribution is skewed, it goes from
R - t*_0.975 s to R - t*_0.025 s. For a difference, whose distribution is nearly symmetric but whose spread is
known badly, as both models do the same on most clips, it goes from R - |t*|_0.95 s to R + |t*|_0.95 s (Hall
1988, "On symmetric bootstrap confidence intervals"). Plain percentiles of R* cover too rarely where a few of
some dozens of clips hold most of the errors: tests/metrics/test_coverage.py tells by how much.

Two models are compared on the same draws (Bisani and Ney 2004, "Bootstrap estimates for confidence
intervals in ASR performance evaluation"). The p-value is that of the randomisation test
(``metrics/randomisation.py``), which assumes no more than that chance says which of two equally good models
does better on a clip. A difference is beyond noise if both the test and the interval say so.

Of fewer than about ten clips, or where two models differ in fewer than about five, an interval is a rough
guide: the clips do not tell their spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.randomisation import p_two_sided

LEVEL = 0.95
RESAMPLES = 10_000
_BLOCK = 4_000_000  # drawn indices held in memory at a time
_ROUNDING = 1e-12  # residuals below this share of the amounts are none

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Bounds that hold the true figure in 95 % of test sets of this size; infinite where nothing is known."""

    low: float
    high: float

    @classmethod
    def of(cls, low: float | None, high: float | None) -> Interval:
        """From JSON, which has no infinity: None is no bound."""
        return cls(-np.inf if low is None else low, np.inf if high is None else high)


@dataclass(frozen=True)
class PairedResult:
    """Two models on the same clips.

    Attributes:
        baseline: the first model's figure on all clips.
        candidate: the second's.
        difference: candidate minus baseline.
        baseline_interval: 95 % interval of the first figure.
        candidate_interval: of the second.
        difference_interval: of the difference; narrower than the two others suggest, because both models
            find the same clips hard.
        p_value: how often two equally good models would differ by as much or more (two-sided). At least
            1 / 10,001, or 2^(1 - k) if the models differ in k <= 12 clips.
        within_noise: at the 5 % level: 0 lies in the interval of the difference, or p is above 0.05.
        clips: number of clips.
        resamples: number of draws.
        seed: of the draws.
    """

    baseline: float
    candidate: float
    difference: float
    baseline_interval: Interval
    candidate_interval: Interval
    difference_interval: Interval
    p_value: float
    within_noise: bool
    clips: int
    resamples: int
    seed: int


def paired_bootstrap(
    baseline: ArrayLike,
    candidate: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedResult:
    """Compare two models on the same clips.

    Args:
        baseline: amount of each clip, shape [clips]: word errors, or scores.
        candidate: the same for the other model, clips in the same order.
        weights: shape [clips]: reference words; None means one each.
        resamples: how many times clips are drawn with replacement.
        seed: of the draws.

    Raises:
        DataError: the shapes differ or there is no clip.
    """
    first, second = np.asarray(baseline, float), np.asarray(candidate, float)
    if first.shape != second.shape:
        raise DataError(f"bootstrap: {first.shape} and {second.shape} amounts cannot be paired")
    weight = _weights(first, weights)
    before, after, change = _studentised(np.stack([first, second, second - first]), weight, resamples, seed)
    between = _symmetric(change)
    p_value = p_two_sided(second - first, seed=seed)
    return PairedResult(
        baseline=before.figure,
        candidate=after.figure,
        difference=change.figure,
        baseline_interval=_within(_equal_tailed(before), first, weight),
        candidate_interval=_within(_equal_tailed(after), second, weight),
        difference_interval=between,
        p_value=p_value,
        within_noise=between.low <= 0.0 <= between.high or p_value > 1 - LEVEL,
        clips=len(weight),
        resamples=resamples,
        seed=seed,
    )


def interval(
    amounts: ArrayLike, weights: ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """95 % interval of one model's figure; arguments as those of :func:`paired_bootstrap`.

    It stays at 0 or above if no amount is negative, and at 1 or below if none exceeds its weight, as in an
    accuracy. Of figures that no clip departs from it has no width: nothing in the clips tells how rare an
    exception is.
    """
    values = np.asarray(amounts, float)
    weight = _weights(values, weights)
    (found,) = _studentised(values[None], weight, resamples, seed)
    return _within(_equal_tailed(found), values, weight)


@dataclass(frozen=True)
class _Studentised:
    """A figure, its standard error, and how many of their own errors the draws are away from it, [draws]."""

    figure: float
    error: float
    distances: Array


def _studentised(amounts: Array, weights: Array, resamples: int, seed: int) -> list[_Studentised]:
    """Of each figure of amounts [figures, clips] over common weights [clips]; all on the same draws."""
    clips = len(weights)
    total = weights.sum()
    figures = amounts.sum(axis=1) / total
    residuals = amounts - figures[:, None] * weights
    residuals[np.abs(residuals) <= _ROUNDING * np.abs(amounts).max(axis=1, keepdims=True)] = 0.0
    if clips == 1:  # nothing is known of the spread
        return [_Studentised(float(figure), np.inf, np.array([-1.0, 1.0])) for figure in figures]
    scale = clips / (clips - 1)
    errors = np.sqrt(scale * (residuals**2).sum(axis=1)) / total
    # A draw may hold none of the few clips that matter and so show no spread; it counts as if it held one.
    floors = errors / np.sqrt(np.maximum((amounts != 0).sum(axis=1), 1))
    moments = np.stack([weights, weights**2, *residuals, *residuals**2, *(residuals * weights)], axis=1)
    drawn = np.concatenate([counts @ moments for counts in _draws(clips, resamples, seed)])
    # A draw of clips without any reference word has no rate; it is worth as much as no draw.
    drawn = drawn[drawn[:, 0] > 0]
    weight, weight_squares = drawn[:, :1], drawn[:, 1:2]
    sums, squares, products = np.split(drawn[:, 2:], 3, axis=1)
    shifts = sums / weight  # R* - R
    variances = scale * (squares - 2 * shifts * products + shifts**2 * weight_squares) / weight**2
    own = np.maximum(np.sqrt(np.maximum(variances, 0.0)), floors)
    distances = np.divide(shifts, own, out=np.zeros_like(shifts), where=own > 0)
    return [
        _Studentised(float(figure), float(error), distances[:, place])
        for place, (figure, error) in enumerate(zip(figures, errors, strict=True))
    ]


def _draws(clips: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each clip is drawn, [draws, clips], in blocks."""
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // clips)
    for begin in range(0, resamples, rows):
        number = min(rows, resamples - begin)
        chosen = generator.integers(clips, size=(number, clips)) + clips * np.arange(number)[:, None]
        yield np.bincount(chosen.ravel(), minlength=number * clips).reshape(number, clips).astype(float)


def _equal_tailed(found: _Studentised) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found.distances, [tail, 1 - tail])
    return Interval(float(found.figure - high * found.error), float(found.figure - low * found.error))


def _symmetric(found: _Studentised) -> Interval:
    reach = float(np.quantile(np.abs(found.distances), LEVEL) * found.error)
    return Interval(found.figure - reach, found.figure + reach)


def _within(bounds: Interval, amounts: Array, weights: Array) -> Interval:
    """No lower than 0 and no higher than 1 where no clip was."""
    lowest = 0.0 if (amounts >= 0).all() else -np.inf
    highest = 1.0 if (amounts <= weights).all() else np.inf
    return Interval(max(bounds.low, lowest), min(bounds.high, highest))


def _weights(amounts: Array, weights: ArrayLike | None) -> Array:
    found = np.ones(len(amounts)) if weights is None else np.asarray(weights, float)
    if amounts.ndim != 1 or found.shape != amounts.shape or found.sum() <= 0:
        raise DataError(
            f"bootstrap: needs one weight a clip and at least one clip with weight; "
            f"found {len(amounts)} clips, amounts of shape {amounts.shape}, weights of shape {found.shape} "
            f"that sum to {found.sum():g}"
        )
    return found
