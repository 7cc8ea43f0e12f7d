"""Whether one system is better than another beyond chance, from paired differences: a test for searches.

If two systems are equally good, it is chance which of them did better on a clip, so the sign of each paired
difference d_i may be flipped (Fisher's randomisation test; Noreen 1989, "Computer-intensive methods for
testing hypotheses"; for machine translation Riezler and Maxwell 2005). The one-sided p-value is the share of
flips s in {-1, +1}^n under which

    sum of s_i d_i <= sum of d_i

Unlike a bootstrap's percentiles it is exact however few the clips are, and a search asks it of few.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audiolm_compress.errors import DataError

FLIPS = 10_000
_EXACT = 12  # differences up to which all flips are counted
_TOLERANCE = 1e-12  # of sums that are equal but for rounding


def p_lower(differences: ArrayLike, *, seed: int = 0) -> float:
    """How probable differences as low as these are, if they are as likely to be positive as negative.

    Args:
        differences: second minus first system, one a clip, shape [clips]; lower is better.
        seed: of the drawn flips; up to 12 clips all flips are counted, and nothing is drawn.

    Returns:
        From 2^-clips, or 1 / 10,001 where flips are drawn, to 1.

    Raises:
        DataError: there is no difference.

    >>> p_lower([-1.0, -1.0, -1.0])
    0.125
    """
    values = np.asarray(differences, float)
    if values.ndim != 1 or not len(values):
        raise DataError(f"randomisation test: needs differences of shape [clips]; found {values.shape}")
    flips = _signs(len(values), seed)
    bound = values.sum() + _TOLERANCE * np.abs(values).sum()
    lower = int((flips @ values <= bound).sum())
    if len(values) <= _EXACT:
        return lower / len(flips)
    return (lower + 1) / (len(flips) + 1)  # the differences as they are count as one of the draws


def p_least(clips: int) -> float:
    """The least that ``p_lower`` can be with so many clips.

    >>> p_least(3), p_lower([-1.0, -2.0, -3.0])
    (0.125, 0.125)
    """
    return 2.0**-clips if clips <= _EXACT else 1 / (FLIPS + 1)


def _signs(clips: int, seed: int) -> NDArray[np.float64]:
    if clips <= _EXACT:
        return np.array(list(product((-1.0, 1.0), repeat=clips)))
    return np.random.default_rng(seed).choice((-1.0, 1.0), size=(FLIPS, clips))
