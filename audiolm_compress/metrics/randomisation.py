"""Whether one system is better than another beyond chance, from paired differences.

If two systems are equally good, it is chance which of them did better on a clip, so the sign of each paired
difference d_i may be flipped (Fisher's randomisation test; Noreen 1989, "Computer-intensive methods for
testing hypotheses"; for machine translation Riezler and Maxwell 2005). The one-sided p-value is the share of
flips s in {-1, +1}^n under which

    sum of s_i d_i <= sum of d_i

and the two-sided one is the share under which the sum is at least as far from 0. Unlike a bootstrap's
percentiles they are exact however few the clips are, or the clips in which the systems differ. The
differences of a ratio such as WER are those of its amounts, the word errors: a flip exchanges the systems'
answers to a clip, and its weight, the reference words, is the same for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audiolm_compress.errors import DataError

FLIPS = 10_000
_EXACT = 12  # differences up to which all flips are counted
_BLOCK = 4_000_000  # drawn signs held in memory at a time
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
    values = _checked(differences)
    bound = values.sum() + _TOLERANCE * np.abs(values).sum()
    return _share([flips @ values <= bound for flips in _signs(len(values), seed)], len(values))


def p_two_sided(differences: ArrayLike, *, seed: int = 0) -> float:
    """How probable differences as large as these are in either direction, if either direction is as likely.

    Args:
        differences: second minus first system, one a clip, shape [clips].
        seed: of the drawn flips; if at most 12 clips differ all flips are counted, and nothing is drawn.

    Returns:
        From 2^(1 - clips that differ), or 1 / 10,001 where flips are drawn, to 1; 1 if no clip differs.

    Raises:
        DataError: there is no difference.

    >>> p_two_sided([-1.0, 0.0, -1.0, -1.0])
    0.25
    """
    values = _checked(differences)
    values = values[values != 0]  # their signs change no sum
    bound = np.abs(values.sum()) - _TOLERANCE * np.abs(values).sum()
    return _share([np.abs(flips @ values) >= bound for flips in _signs(len(values), seed)], len(values))


def _checked(differences: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(differences, float)
    if values.ndim != 1 or not len(values):
        raise DataError(f"randomisation test: needs differences of shape [clips]; found {values.shape}")
    return values


def _share(extreme: Sequence[NDArray[np.bool_]], clips: int) -> float:
    found = np.concatenate(extreme)
    if clips <= _EXACT:
        return float(found.mean())
    return float(
        (found.sum() + 1) / (len(found) + 1)
    )  # the differences as they are count as one of the draws


def _signs(clips: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Flips [flips, clips], in blocks."""
    if clips <= _EXACT:
        yield np.array(list(product((-1.0, 1.0), repeat=clips))).reshape(2**clips, clips)
        return
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // clips)
    for begin in range(0, FLIPS, rows):
        yield generator.choice((-1.0, 1.0), size=(min(rows, FLIPS - begin), clips))
