"""How far chance in the choice of test clips moves a score, and whether two models differ beyond it.

The percentile bootstrap (Efron and Tibshirani 1993, chapter 13) over clips, paired: every resample draws the
same clips for both models (Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR
performance evaluation").

A corpus figure is written as sum(amounts) / sum(weights) over clips: word errors over reference words for
WER, clip scores over ones for a mean such as CIDEr-D. CIDEr-D's document frequencies stay those of the full
set; drawing clips anew would otherwise also change what a word is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audiolm_compress.errors import DataError

LEVEL = 0.95
RESAMPLES = 10_000
_BLOCK = 4_000_000  # drawn indices held in memory at a time


@dataclass(frozen=True)
class Interval:
    """Bounds between which the figure lies in 95 % of the resamples."""

    low: float
    high: float


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
        within_noise: 0 lies in the interval of the difference.
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
    amounts = np.stack([np.asarray(baseline, float), np.asarray(candidate, float)], axis=-1)
    weight = np.ones(len(amounts)) if weights is None else np.asarray(weights, float)
    draws = _draw(amounts, weight, resamples, seed)
    first, second = amounts.sum(axis=0) / weight.sum()
    difference = _interval(draws[:, 1] - draws[:, 0])
    return PairedResult(
        baseline=float(first),
        candidate=float(second),
        difference=float(second - first),
        baseline_interval=_interval(draws[:, 0]),
        candidate_interval=_interval(draws[:, 1]),
        difference_interval=difference,
        within_noise=difference.low <= 0.0 <= difference.high,
        clips=len(amounts),
        resamples=resamples,
        seed=seed,
    )


def interval(
    amounts: ArrayLike, weights: ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """95 % interval of one model's figure; arguments as those of :func:`paired_bootstrap`."""
    column = np.asarray(amounts, float)[:, None]
    weight = np.ones(len(column)) if weights is None else np.asarray(weights, float)
    return _interval(_draw(column, weight, resamples, seed)[:, 0])


def _draw(
    amounts: NDArray[np.float64], weights: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Figures [resamples, models] of resampled clips; amounts [clips, models], weights [clips]."""
    clips = len(amounts)
    if clips == 0 or weights.shape != (clips,) or weights.sum() <= 0:
        raise DataError(
            f"bootstrap: needs one weight a clip and at least one clip with weight; "
            f"found {clips} clips and weights of shape {weights.shape}"
        )
    generator = np.random.default_rng(seed)
    figures = []
    left = resamples
    while left > 0:
        rows = min(left, max(1, _BLOCK // clips))
        chosen = generator.integers(clips, size=(rows, clips))
        total = weights[chosen].sum(axis=1)
        # A draw of clips without any reference word has no rate; it is worth as much as no draw.
        kept = total > 0
        figures.append(amounts[chosen[kept]].sum(axis=1) / total[kept, None])
        left -= rows
    return np.concatenate(figures)


def _interval(draws: NDArray[np.float64]) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))
