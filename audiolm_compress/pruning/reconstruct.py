"""What the kept channels can do about the removed ones: the best reading Linear for them.

With x the inner vector, K the kept and R the removed channels, the output that is lost is W_R x_R. A change
D of the kept columns gives some of it back; over the calibration inputs, with H = mean x x^T,

    min_D  E |W_R x_R - D x_K|^2 + |D L^(1/2)|^2      =>      D = W_R H_RK (H_KK + L)^-1

with a small diagonal L, so that little is learnt where calibration says little (ridge regression; the
problem of the optimal brain surgeon and of OSSCAR, arXiv:2403.12983, for channels that are chosen already).
D = 0 is among the candidates, so the calibration error never grows. A bias is one more kept column, whose
input is 1: the mean of what was removed goes there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 0.01  # of each kept channel's mean square
_FLOOR = 1e-6  # of their mean, for channels that were always silent


@dataclass(frozen=True)
class Correction:
    """A better reading Linear.

    Attributes:
        weight: float64 [out, kept].
        bias: float64 [out], None if the Linear has none.
        error_removed: mean square of the output that is lost without correction, as a share of the output's.
        error: the same with it.
    """

    weight: Tensor
    bias: Tensor | None
    error_removed: float
    error: float


def correct(weight: Tensor, bias: Tensor | None, moments: Tensor, kept: Sequence[int]) -> Correction:
    """The correction of a Linear from which columns are removed.

    Args:
        weight: of the whole Linear, [out, in].
        bias: [out] or None.
        moments: mean x x^T of its inputs, [in, in]; with a bias [in + 1, in + 1], the last input being 1.
        kept: columns that stay, ascending.
    """
    inputs = weight.shape[1]
    W, H = weight.detach().double(), moments.double()
    if bias is not None:
        W = torch.cat((W, bias.detach().double()[:, None]), dim=1)
    K = torch.tensor([*kept, *range(inputs, W.shape[1])], device=W.device)
    lost = torch.ones(W.shape[1], dtype=torch.bool, device=W.device)
    lost[K] = False
    W_R, H_KK, H_RR = W[:, lost], H[K][:, K], H[lost][:, lost]
    cross = W_R @ H[lost][:, K]
    diagonal = H_KK.diagonal()
    ridge = RIDGE * diagonal + _FLOOR * diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    D = torch.cholesky_solve(cross.T, torch.linalg.cholesky(H_KK + ridge.diag())).T
    removed = ((W_R @ H_RR) * W_R).sum()
    left = removed - 2 * (D * cross).sum() + ((D @ H_KK) * D).sum()
    whole = ((W @ H) * W).sum().clamp(min=torch.finfo(torch.float64).tiny)
    new = W[:, K] + D
    return Correction(
        new[:, : len(kept)],
        None if bias is None else new[:, -1],
        float((removed / whole).clamp(min=0)),
        float((left / whole).clamp(min=0)),
    )
