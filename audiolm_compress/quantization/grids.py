"""Grids: which values a group of weights may take.

A weight of group g is stored as an integer code q of ``bits`` bits and read back as
``scale_g * (q - zero_g)``. Symmetric grids have ``zero = 2**(bits - 1)`` everywhere. Such a grid reaches one
step further to one side (4 bit: -8 .. 7), so its scale carries a sign that turns the longer side to where the
group's larger weights lie.

Progressive grids (two levels of scales: VS-Quant, arXiv:2102.04503; QServe, arXiv:2405.04532) have scales
that are multiples -15 .. 15 of a unit per output. A scale then takes a byte, and ``multiple * (q - zero)`` is
one too, so that products of integers need no rounded weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

BITS = (2, 3, 4, 8)
_MOST_MULTIPLE = 15  # times a code of -8 .. 7 it is a byte

# Clipping a group's extremes costs a few large errors and buys a finer step for all. How far it pays depends
# on the number of levels; at 8 bit it never does.
_SHRINK = {
    2: (1.0, 0.9, 0.8, 0.7, 0.62, 0.55, 0.48, 0.41),
    3: (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58),
    4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75),
    8: (1.0,),
}


@dataclass(frozen=True)
class Scheme:
    """How a matrix is stored.

    Attributes:
        bits: 2, 3, 4 or 8.
        group_size: inputs that share a scale, -1 for whole rows; a last group may be narrower.
        symmetric: whether all zero points are ``2**(bits - 1)`` and need no storage.
        progressive: whether scales are small multiples of a unit per output.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    progressive: bool = False

    def __post_init__(self) -> None:
        """Refuse what no code path stores.

        Raises:
            ValueError: unknown bits, a group size that is neither -1 nor positive, or progressive scales
                where codes times multiples are no bytes or all groups of an output share a scale.
        """
        if self.bits not in BITS:
            raise ValueError(f"bits={self.bits}: choose one of {BITS}")
        if self.group_size != -1 and self.group_size < 1:
            raise ValueError(f"group_size={self.group_size}: choose -1 (whole rows) or a positive number")
        if self.progressive and not (self.symmetric and self.bits <= 4 and self.group_size > 0):
            raise ValueError("progressive scales need symmetric grids, at most 4 bits and a group size")

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    @property
    def middle(self) -> int:
        """The zero point of symmetric grids."""
        return 2 ** (self.bits - 1)

    def width(self, in_features: int) -> int:
        """Inputs in a full group of a matrix with ``in_features`` inputs."""
        return in_features if self.group_size == -1 else min(self.group_size, in_features)

    def groups(self, in_features: int) -> int:
        """Groups in a row of ``in_features`` weights."""
        return -(-in_features // self.width(in_features))


@dataclass(frozen=True)
class Grid:
    """Scales and zero points of a matrix.

    Attributes:
        scales: floating, shape [groups, out].
        zeros: integers in the dtype of ``scales``, shape [groups, out].
        unit: of progressive scales, shape [out]; else None.
    """

    scales: Tensor
    zeros: Tensor
    unit: Tensor | None = None

    def outputs(self, part: slice) -> Grid:
        """The grid of some of the outputs."""
        return Grid(self.scales[:, part], self.zeros[:, part], None if self.unit is None else self.unit[part])

    def allowed(self, scales: Tensor, dtype: torch.dtype | None) -> Tensor:
        """The allowed scales nearest to ``scales`` [..., out], rounded to values of ``dtype``."""
        if self.unit is not None:
            scales = multiples(scales, self.unit) * self.unit
        return scales if dtype is None else scales.to(dtype).float()


def multiples(scales: Tensor, unit: Tensor) -> Tensor:
    """The nearest multiples -15 .. 15 of ``unit`` [out] for ``scales`` [..., out], none of them 0."""
    nearest = (scales / unit).round_().clamp_(-_MOST_MULTIPLE, _MOST_MULTIPLE)
    return torch.where(nearest == 0, 1 - 2 * (scales < 0).to(nearest.dtype), nearest)


def fit_grid(
    weight: Tensor, scheme: Scheme, importance: Tensor | None = None, dtype: torch.dtype | None = None
) -> Grid:
    """Choose scales and zero points for ``weight``.

    Without ``importance`` the grid spans each group's extremes (plain rounding's grid). With it, clipped
    grids of both orientations are tried as well and the one with the least importance-weighted squared error
    is taken, its scale then refitted to the chosen codes by least squares.

    Args:
        weight: float32, shape [out, in].
        scheme: bits, group size, symmetry.
        importance: non-negative weight of each input's squared error, shape [in].
        dtype: scales are rounded to values of this type, so that storing them loses nothing.

    Returns:
        The grid in float32.
    """
    groups = _grouped(weight.float(), scheme)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if importance is None:
        scales, zeros = _symmetric(low, high, scheme) if scheme.symmetric else _asymmetric(low, high, scheme)
    else:
        weights = _grouped(importance.float()[None], scheme)
        scales, zeros = _search(groups, weights, low, high, scheme)
    scales, unit = scales.T.contiguous(), None
    if scheme.progressive:
        unit = scales.abs().amax(0) / _MOST_MULTIPLE
        if dtype is not None:
            unit = unit.to(dtype).float()
        unit = torch.where(unit == 0, torch.ones_like(unit), unit)
    grid = Grid(scales, zeros.T.contiguous(), unit)
    scales = grid.allowed(scales, dtype)
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)  # a group of zeros, or an underflow
    return replace(grid, scales=scales)


def round_to_grid(weight: Tensor, grid: Grid, scheme: Scheme) -> Tensor:
    """Codes of the grid values nearest to ``weight`` [out, in]; uint8 of the same shape."""
    scales, zeros = expand(grid, scheme, weight.shape[1])
    return (weight.float() / scales + zeros).round_().clamp_(0, scheme.top).to(torch.uint8)


def dequantize(codes: Tensor, grid: Grid, scheme: Scheme) -> Tensor:
    """Weights that ``codes`` [out, in] stand for; float32 of the same shape."""
    scales, zeros = expand(grid, scheme, codes.shape[1])
    return (codes.float() - zeros) * scales


def expand(grid: Grid, scheme: Scheme, in_features: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every single weight, both [out, in]."""
    width = scheme.width(in_features)
    scales = grid.scales.T.repeat_interleave(width, 1)[:, :in_features]
    zeros = grid.zeros.T.repeat_interleave(width, 1)[:, :in_features]
    return scales, zeros


def _grouped(weight: Tensor, scheme: Scheme) -> Tensor:
    """View [rows, in] as [rows, groups, width], a narrower last group filled up with zeros."""
    width, groups = scheme.width(weight.shape[1]), scheme.groups(weight.shape[1])
    return F.pad(weight, (0, groups * width - weight.shape[1])).unflatten(1, (groups, width))


def _symmetric(low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The grid -top/2 .. top/2 steps around zero; its upper end falls half a step short, as is customary."""
    scales = 2 * torch.maximum(-low, high) / scheme.top
    return scales, torch.full_like(scales, scheme.middle)


def _asymmetric(low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The grid from ``low`` to ``high`` with an integer zero point."""
    scales = (high - low) / scheme.top
    zeros = (-low / scales.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(0, scheme.top)
    return scales, zeros


def _search(
    groups: Tensor, weights: Tensor, low: Tensor, high: Tensor, scheme: Scheme
) -> tuple[Tensor, Tensor]:
    """Best of the clipped grids by importance-weighted squared error."""
    candidates: list[tuple[Tensor, Tensor]] = []
    middle = torch.full_like(low, scheme.middle)
    for shrink in _SHRINK[scheme.bits]:
        if scheme.symmetric:
            larger = torch.where(high > -low, -high, -low) * (shrink / scheme.middle)
            candidates += [(larger, middle), (-larger, middle)]
        else:
            candidates.append(_asymmetric(low * shrink, high * shrink, scheme))
    best = torch.full_like(low, float("inf"))
    best_scales, best_zeros = torch.ones_like(low), middle
    for scales, zeros in candidates:
        scales = torch.where(scales == 0, torch.ones_like(scales), scales)
        steps = (
            (groups / scales[..., None])
            .round_()
            .add_(zeros[..., None])
            .clamp_(0, scheme.top)
            .sub_(zeros[..., None])
        )
        error = steps.mul_(scales[..., None]).sub_(groups).square_().mul_(weights).sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        best_scales = torch.where(better, scales, best_scales)
        best_zeros = torch.where(better, zeros, best_zeros)
    # The least-squares scale of the codes just found: the error can only fall.
    steps = (groups / best_scales[..., None]).round_().add_(best_zeros[..., None]).clamp_(0, scheme.top)
    steps.sub_(best_zeros[..., None])
    energy = (weights * steps.square()).sum(-1)
    fitted = (weights * steps * groups).sum(-1) / energy.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(energy > 0, fitted, best_scales), best_zeros
