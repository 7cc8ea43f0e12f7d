"""Rows of 8-bit integers with one scale each: of weights once, of inputs as they come.

Inputs are rounded in two ways. `quantize_rows` multiplies by the scale's reciprocal, which takes less time
for float32, and has scales of the dtype that oneDNN's product is to give. `round_rows` divides, keeps float32
scales and can give some inputs more digits. Where a value is halfway between two codes, which happens often
in bfloat16 (half the row's largest is 63.5 scales), they may take different ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = 127  # codes are symmetric
_PIECE = 2**18  # elements rounded at once: larger temporaries leave the cache, and are paged in at every call
# Added to a float32 below 2^22, this rounds it to an integer (half to even) and leaves that in the low byte.
_ROUNDER = 1.5 * 2**23
_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
_WEIGHT_ROWS = 16384  # in float32 at a time: a vocabulary of 256k would take gigabytes


@torch.no_grad()
def round_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of ``weight`` [rows, width] to the nearest of 255 levels.

    Returns:
        Codes int8 [rows, width], and scales [rows] in the dtype of ``weight``; 1 for rows of zeros.
    """
    largest = torch.cat([part.abs().amax(1) for part in weight.split(_WEIGHT_ROWS)])
    scales = (largest.float() / LEVELS).to(weight.dtype)
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    pieces = (codes.split(_WEIGHT_ROWS), weight.split(_WEIGHT_ROWS), scales.split(_WEIGHT_ROWS))
    for into, part, scale in zip(*pieces, strict=True):
        into.copy_((part.float() / scale[:, None].float()).round_().clamp_(-LEVELS, LEVELS))
    return codes, scales


def quantize_rows(x: Tensor, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Round each row of ``x`` to the nearest of 255 levels.

    Args:
        x: float32, bfloat16 or float16, [rows, width].
        offset: 0 for int8 codes, 128 for uint8 codes that are larger by it.

    Returns:
        Codes [rows, width], and scales [rows, 1]: in bfloat16 for bfloat16, else float32.
    """
    x = x.contiguous()
    kind = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    codes = torch.empty(x.shape, dtype=torch.uint8 if offset else torch.int8, device=x.device)
    scales = torch.empty(len(x), 1, dtype=kind, device=x.device)
    if not x.numel():
        return codes, scales.fill_(1)
    rounder = torch.full((x.shape[1],), _ROUNDER + offset, device=x.device)
    step = max(1, _PIECE // x.shape[1])
    for start in range(0, len(x), step):
        rows, scale = x[start : start + step], scales[start : start + step]
        # Without their sign, floats are ordered as their bits are; the largest integer is found much faster.
        bits = rows.view(_BITS[x.dtype])
        largest = (bits & torch.iinfo(bits.dtype).max).amax(1, keepdim=True).view(x.dtype)
        # The least normal number keeps rows of zeros from being divided by zero; NaN and infinity stay.
        scale.copy_((largest.float() / LEVELS).to(kind).clamp_(min=torch.finfo(torch.float32).tiny))
        shifted = torch.addcmul(rounder, rows.float(), 1 / scale.float())
        codes[start : start + step] = shifted.view(torch.int32)
    return codes, scales


class Rounded(NamedTuple):
    """Rows of 8-bit integers.

    Attributes:
        codes: int8, [rows, width].
        scales: float32, [rows, 1]; the row is about ``scales * codes``.
        outliers: int64, [count], the inputs whose codes are 128 * ``high`` larger; None if there are none.
        high: int8, [rows, count].
    """

    codes: Tensor
    scales: Tensor
    outliers: Tensor | None = None
    high: Tensor | None = None

    def times(self, weight: Tensor) -> Tensor:
        """The integer product with ``weight`` int8 [width, out]: int32 [rows, out]."""
        y = torch._int_mm(self.codes, weight)
        if self.outliers is None or self.high is None:
            return y
        return y.add_(torch._int_mm(self.high, weight.index_select(0, self.outliers)), alpha=128)


def round_rows(x: Tensor, outliers: Tensor | None = None) -> Rounded:
    """``x`` [rows, width] on 255 levels a row, ``outliers`` on 128 times as many.

    A row's codes depend on that row alone.
    """
    values = x.to(torch.float32, copy=True)
    tiny = torch.finfo(torch.float32).tiny
    if outliers is None:
        scales = _largest(values).div_(LEVELS).clamp_(min=tiny)
        return Rounded(values.div_(scales).round_().to(torch.int8), scales)
    large = values[:, outliers]
    values[:, outliers] = 0
    scales = torch.maximum(_largest(values).div_(LEVELS), _largest(large).div_(LEVELS * 128)).clamp_(min=tiny)
    large.div_(scales).round_()
    high = large.div(128).round_()
    values.div_(scales).round_()[:, outliers] = large.sub_(high, alpha=128)
    return Rounded(values.to(torch.int8), scales, outliers, high.to(torch.int8))


def _largest(values: Tensor) -> Tensor:
    """Largest magnitude of each row, [rows, 1]."""
    return torch.maximum(values.amax(1, keepdim=True), values.amin(1, keepdim=True).neg_())
