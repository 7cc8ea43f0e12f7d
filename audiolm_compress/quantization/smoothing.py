"""Outlier channels moved from activations to weights: SmoothQuant, Xiao et al., arXiv:2211.10438.

A few channels of a Transformer's activations are far larger than the others. Eight bits that must reach the
largest leave few levels for the rest. Dividing channel j of the input by s_j and multiplying column j of the
weights by it changes nothing but who carries the outlier (eq. 4):

    s_j = max |x_j|^alpha / max |w_j|^(1 - alpha)

Factors are rounded to powers of two here, so that folding is exact in any floating dtype: exponents alone
change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def smoothing_factors(input_max: Tensor, weight_max: Tensor, alpha: float) -> Tensor:
    """Factors of eq. 4, powers of two; 1 for channels that are all zero on either side.

    Args:
        input_max: largest magnitude of each channel of the input, [in].
        weight_max: that of each column of the weights, [in].
        alpha: share of the difficulty that moves to the weights, 0 to 1.

    Returns:
        float32 [in]; their median is near 1, as a common factor would change nothing.
    """
    logs = alpha * input_max.float().log2() - (1 - alpha) * weight_max.float().log2()
    usable = logs.isfinite()
    if not usable.any():
        return torch.ones_like(logs)
    return torch.where(usable, logs - logs[usable].median(), 0.0).round().exp2()


@torch.no_grad()
def fold_factors(
    factors: Tensor, makers: Sequence[nn.LayerNorm | nn.Linear], readers: Sequence[nn.Linear]
) -> None:
    """Divide what ``makers`` put out by ``factors`` [in] and multiply the columns of ``readers`` by them.

    The outputs of the makers, joined, are the only input of the readers, and nothing else reads them.
    """
    widths = [len(maker.weight) for maker in makers]
    for maker, part in zip(makers, factors.split(widths), strict=True):
        part = part.to(maker.weight.dtype)
        maker.weight.div_(part if maker.weight.dim() == 1 else part[:, None])
        if maker.bias is not None:
            maker.bias.div_(part)
    for reader in readers:
        reader.weight.mul_(factors.to(reader.weight.dtype))
