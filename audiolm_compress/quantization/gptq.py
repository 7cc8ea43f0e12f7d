"""GPTQ: rounding whose errors are absorbed by the weights not yet rounded.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
arXiv:2210.17323. For a linear layer with inputs x the loss of replacing W by Q is

    trace((W - Q) H (W - Q)^T),    H = E[x x^T],

and rounding the inputs one after the other, each error spread over the remaining inputs by the Cholesky
factor of H^-1, is a greedy descent on it. Two things are added to the paper:

* Grids are fitted before the first column is rounded (static groups), each squared error weighted by what it
  will cost in the loop, 1 / U_jj^2. Columns can then go in any order while groups stay contiguous in memory.
* Afterwards, sweeps of coordinate descent on the very same loss: per group the scale has a closed-form
  optimum given the codes, and per column the codes given all others. No step can raise the loss.

Everything here takes tensors and gives tensors; the matrices are kept input-major ([in, out]) inside the
loops, so that a column of W is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audiolm_compress.errors import PassError
from audiolm_compress.quantization.grids import Grid, Scheme, dequantize, expand, fit_grid, round_to_grid

_BLOCK = 32  # columns that are updated one by one before the rest of the matrix follows in one product
_MOST_DAMPING = 1.0


class Hessian:
    """Running mean of x x^T over the inputs of a linear layer.

    A mean, not a sum: float32 keeps its precision however many inputs come.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        """Start empty, for inputs of ``in_features`` values."""
        self.matrix = torch.zeros(in_features, in_features, device=device)
        self.rows = 0

    def add(self, inputs: Tensor) -> None:
        """Count ``inputs`` [rows, in_features] of any floating dtype."""
        rows = inputs.shape[0]
        if rows == 0:
            return
        inputs = inputs.float()
        self.rows += rows
        share = rows / self.rows
        self.matrix.addmm_(inputs.T, inputs, beta=1 - share, alpha=1 / self.rows)

    def join(self, total: Callable[[Tensor], Tensor]) -> None:
        """Count what other processes have counted; ``total`` sums a tensor over all of them."""
        rows = total(torch.tensor(float(self.rows), device=self.matrix.device))
        self.matrix = total(self.matrix * self.rows) / rows.clamp(min=1)
        self.rows = int(rows)


@dataclass(frozen=True)
class Quantized:
    """A quantised matrix and what it costs on the calibration inputs.

    Attributes:
        codes: uint8, shape [out, in].
        grid: scales and zero points, shape [groups, out], float32.
        energy: E (Wx)^2 of each output, shape [out].
        loss: E (Wx - Qx)^2 of each output, shape [out].
        rounding_loss: the same for plain rounding to the grid of the extremes.
        damping: the share of the mean diagonal that was finally added to H.
    """

    codes: Tensor
    grid: Grid
    energy: Tensor
    loss: Tensor
    rounding_loss: Tensor
    damping: float

    @property
    def error(self) -> float:
        """E|Wx - Qx|^2 / E|Wx|^2."""
        return float(self.loss.sum() / self.energy.sum().clamp(min=1e-30))

    @property
    def rounding_error(self) -> float:
        """The same ratio for plain rounding."""
        return float(self.rounding_loss.sum() / self.energy.sum().clamp(min=1e-30))

    def outputs(self, start: int, stop: int) -> Quantized:
        """The part that computes outputs ``start`` to ``stop`` (exclusive)."""
        part = slice(start, stop)
        return replace(
            self,
            codes=self.codes[part],
            grid=self.grid.outputs(part),
            energy=self.energy[part],
            loss=self.loss[part],
            rounding_loss=self.rounding_loss[part],
        )


@torch.no_grad()
def quantize_gptq(
    weight: Tensor,
    hessian: Tensor,
    scheme: Scheme,
    *,
    act_order: bool = True,
    damping: float = 0.01,
    sweeps: int = 1,
    dtype: torch.dtype | None = None,
) -> Quantized:
    """Quantise ``weight`` so that its outputs change little.

    Several layers with the same inputs are best stacked along their outputs: the factorisation is then
    shared.

    Args:
        weight: any floating dtype, shape [out, in].
        hessian: E[x x^T], float32, shape [in, in].
        scheme: bits, group size, symmetry.
        act_order: round the inputs of largest mean square first.
        damping: share of the mean diagonal of H added to its diagonal; raised tenfold while H is not
            positive.
        sweeps: rounds of coordinate descent afterwards.
        dtype: scales are rounded to values of this type.

    Raises:
        PassError: H holds NaN or infinite values, or is not positive with any damping.
    """
    require_finite(hessian)
    weight = weight.float()
    if not hessian.diagonal().any():  # no input was ever non-zero: nothing to learn from
        return quantize_rounding(weight, hessian, scheme, dtype=dtype)

    diagonal = hessian.diagonal()
    order = diagonal.argsort(descending=True, stable=True) if act_order else torch.arange(len(diagonal))
    order = order.to(weight.device)
    factor, damped, damping = _factor(hessian, order, damping)
    importance = torch.empty_like(diagonal)
    importance[order] = factor.diagonal().pow(-2)
    grid = fit_grid(weight, scheme, importance, dtype)
    codes = _greedy(weight, factor, order, grid, scheme)
    for _ in range(sweeps):
        codes, grid = _descend(weight, damped, codes, grid, scheme, dtype)
    return quantized_as(weight, hessian, codes, grid, scheme, damping, dtype)


def require_finite(hessian: Tensor) -> None:
    """Refuse statistics of broken inputs.

    Raises:
        PassError: H holds NaN or infinite values.
    """
    if not torch.isfinite(hessian).all():
        raise PassError(
            "gptq: the calibration inputs of a layer hold NaN or infinite values; cast that part to "
            "float32 or bfloat16, or look for broken clips"
        )


def quantized_as(
    weight: Tensor,
    hessian: Tensor,
    codes: Tensor,
    grid: Grid,
    scheme: Scheme,
    damping: float,
    dtype: torch.dtype | None,
) -> Quantized:
    """``codes`` on ``grid`` with what they cost; see ``quantize_gptq`` for the arguments."""
    rounded = quantize_rounding(weight, hessian, scheme, dtype=dtype)
    loss = _energy(weight - dequantize(codes, grid, scheme), hessian)
    return replace(rounded, codes=codes, grid=grid, loss=loss, damping=damping)


@torch.no_grad()
def quantize_rounding(
    weight: Tensor, hessian: Tensor | None, scheme: Scheme, *, dtype: torch.dtype | None = None
) -> Quantized:
    """Plain rounding to the grid of the extremes; without ``hessian`` losses are those of white inputs."""
    weight = weight.float()
    grid = fit_grid(weight, scheme, dtype=dtype)
    codes = round_to_grid(weight, grid, scheme)
    loss = _energy(weight - dequantize(codes, grid, scheme), hessian)
    return Quantized(codes, grid, _energy(weight, hessian), loss, loss, damping=0.0)


def _energy(matrix: Tensor, hessian: Tensor | None) -> Tensor:
    """E (Mx)^2 of each output of ``matrix`` [out, in]."""
    return ((matrix if hessian is None else matrix @ hessian) * matrix).sum(1)


def _factor(hessian: Tensor, order: Tensor, damping: float) -> tuple[Tensor, Tensor, float]:
    """The factor U of the damped inverse, the damped H in natural order, and the damping it took.

    U is upper triangular with U^T U = (H + d I)^-1 for the inputs in ``order``. With J the reversal of the
    order, L = chol(J H J) gives H = (J L J)(J L J)^T and hence U = (J L J)^-1: one
    Cholesky and one triangular inverse, where the paper's way takes three factorisations.
    """
    mean = hessian.diagonal().mean()
    while True:
        damped = hessian + torch.diag(torch.full_like(hessian.diagonal(), float(damping * mean)))
        lower, failed = torch.linalg.cholesky_ex(damped[order][:, order].flip(0, 1))
        if not failed:
            break
        if damping >= _MOST_DAMPING:
            raise PassError(f"gptq: the Hessian is not positive even with damping {damping}")
        damping = max(damping * 10, 1e-4)
    identity = torch.eye(len(order), device=hessian.device)
    upper = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    return upper, damped, damping


def _greedy(weight: Tensor, factor: Tensor, order: Tensor, grid: Grid, scheme: Scheme) -> Tensor:
    """Round the columns in ``order``, each error passed on to the later ones (algorithm 1 of the paper)."""
    columns = weight.T[order].contiguous()
    groups = torch.div(order, scheme.width(len(order)), rounding_mode="floor").tolist()
    pivots = factor.diagonal().tolist()
    codes = torch.empty_like(columns, dtype=torch.uint8)
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        errors = torch.empty_like(columns[start:stop])
        for j in range(start, stop):
            scale, zero = grid.scales[groups[j]], grid.zeros[groups[j]]
            code = columns[j].div(scale).add_(zero).round_().clamp_(0, scheme.top)
            codes[j] = code
            error = torch.sub(columns[j], code.sub_(zero).mul_(scale), out=errors[j - start]).div_(pivots[j])
            columns[j + 1 : stop].addr_(factor[j, j + 1 : stop], error, alpha=-1)
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    natural = torch.empty_like(codes)
    natural[order] = codes
    return natural.T.contiguous()


def _descend(
    weight: Tensor, hessian: Tensor, codes: Tensor, grid: Grid, scheme: Scheme, dtype: torch.dtype | None
) -> tuple[Tensor, Grid]:
    """One sweep over the groups: the scale that suits the codes best, then code by code given the others."""
    in_features, width = weight.shape[1], scheme.width(weight.shape[1])
    values = dequantize(codes, grid, scheme).T.contiguous()
    steps = codes.T.float() - expand(grid, scheme, in_features)[1].T
    change = weight.T - values
    scales = grid.scales.clone()
    pivots = hessian.diagonal().tolist()
    for group in range(len(scales)):
        rows = slice(group * width, min((group + 1) * width, in_features))
        local = hessian[rows, rows]
        gradient = hessian[rows] @ change  # minus half the derivative of the loss
        curvature = (steps[rows] * (local @ steps[rows])).sum(0)
        step = (steps[rows] * gradient).sum(0) / curvature.clamp(min=1e-30)
        scale = torch.where(curvature > 0, scales[group] + step, scales[group])
        scale = grid.allowed(scale, dtype)
        scale = torch.where(scale == 0, scales[group], scale)
        gradient -= local @ (steps[rows] * (scale - scales[group]))
        scales[group], zero = scale, grid.zeros[group]
        _descend_group(values[rows], steps[rows], gradient, local, scale, zero, pivots[rows], scheme)
        change[rows] = weight.T[rows] - values[rows]
    codes = (steps + expand(grid, scheme, in_features)[1].T).to(torch.uint8).T.contiguous()
    return codes, replace(grid, scales=scales)


def _descend_group(
    values: Tensor,
    steps: Tensor,
    gradient: Tensor,
    local: Tensor,
    scale: Tensor,
    zero: Tensor,
    pivots: list[float],
    scheme: Scheme,
) -> None:
    """Renew ``values`` and ``steps`` of one group in place; ``gradient``, at steps * scale, is used up."""
    lowest, highest = -zero, scheme.top - zero
    for start in range(0, len(pivots), _BLOCK):
        stop = min(start + _BLOCK, len(pivots))
        before = steps[start:stop] * scale
        for j in range(start, stop):
            old = before[j - start]
            step = torch.add(old, gradient[j], alpha=1 / pivots[j]).div_(scale).round_()
            torch.clamp(step, lowest, highest, out=steps[j])
            torch.mul(steps[j], scale, out=values[j])
            gradient[j + 1 : stop].addr_(local[j, j + 1 : stop], values[j] - old, alpha=-1)
        gradient[stop:].addmm_(local[stop:, start:stop], values[start:stop] - before, alpha=-1)
