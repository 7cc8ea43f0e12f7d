"""Low-rank factors of linear layers, fitted to what the layers give on calibration data.

A layer y = W x + b whose outputs vary in few directions can be computed in two thin steps. With m the mean
and C = V diag(l) V^T the covariance of y over calibration positions (l descending), r directions give

    y' = V_r (V_r^T W x) + m - V_r V_r^T (m - b),      mean |y - y'|^2 = l_(r+1) + l_(r+2) + ...

This is principal component analysis of the output (LiteASR, arXiv:2502.20583, section 3). No other factors of
rank r, with any bias, have a smaller mean squared output error on the calibration data: y - m is linear in x,
so every candidate is a rank-r approximation of the matrix of centred outputs, and the best of those is the
projection onto V_r (Eckart and Young, 1936). A plain SVD of W is best only if all inputs weigh the same.

Where a layer has fewer inputs than outputs the same V and l come from the smaller covariance C_x of x:
V diag(l)^(1/2) are left singular vectors and values of W C_x^(1/2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

RANK_MULTIPLE = 16  # what matrix units like; int4 and int8 groups divide it as well


class LowRankLinear(nn.Module):
    """Two linear layers in the place of one: ``reduce`` [rank, in] and ``expand`` [out, rank] with the bias.

    Both are plain ``nn.Linear``, so that whatever quantises those finds them.
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        """Make a layer with empty weights, ready for ``load_state_dict``."""
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        device = torch.get_default_device()
        self.reduce = skip_init(nn.Linear, in_features, rank, bias=False, device=device)
        self.expand = skip_init(nn.Linear, rank, out_features, device=device)

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs to build the layer again, without its weights."""
        return {
            "kind": "low_rank",
            "in_features": self.in_features,
            "out_features": self.out_features,
            "rank": self.rank,
        }

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        return self.expand(self.reduce(x))


class OutputStatistics:
    """Running mean and covariance of a layer's outputs; of its inputs where those are fewer.

    Products are computed in float32 on values shifted by the first batch's mean, which keeps a large mean
    from hiding a small variance, and summed in float64.
    """

    def __init__(self, linear: nn.Linear) -> None:
        self.of_outputs = linear.out_features <= linear.in_features
        self.width = min(linear.in_features, linear.out_features)
        self.rows = 0
        device = linear.weight.device
        self._shift = torch.zeros(self.width, device=device)
        self._sum = torch.zeros(self.width, dtype=torch.float64, device=device)
        self._products = torch.zeros(self.width, self.width, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Count rows of ``inputs`` [rows, in] and the ``outputs`` [rows, out] of the layer."""
        rows = (outputs if self.of_outputs else inputs).float()
        if not self.rows:
            self._shift = rows.mean(0)
        rows = rows - self._shift
        self.rows += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """float64 [width]."""
        return self._shift.double() + self._sum / self.rows

    @property
    def covariance(self) -> Tensor:
        """float64 [width, width]."""
        offset = self._sum / self.rows
        return self._products / self.rows - torch.outer(offset, offset)


@dataclass(frozen=True)
class Spectrum:
    """In which directions a layer's outputs vary, and by how much.

    Attributes:
        mean: of the outputs, float64 [out].
        variances: along the directions, float64 [n], descending; n = min(in, out).
        directions: orthonormal columns, float32 [out, k] with k <= n.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor

    def error(self, rank: int) -> float:
        """Share of the outputs' variance that ``rank`` directions leave out."""
        total = self.variances.sum().clamp(min=1e-300)
        return float(self.variances[rank:].sum() / total)

    def rank(self, energy: float) -> int:
        """Smallest multiple of ``RANK_MULTIPLE`` whose directions hold that share of the variance."""
        shares = self.variances.cumsum(0) / self.variances.sum().clamp(min=1e-300)
        needed = int((shares < energy).sum()) + 1
        return -(-needed // RANK_MULTIPLE) * RANK_MULTIPLE


def output_spectrum(linear: nn.Linear, statistics: OutputStatistics, directions: int) -> Spectrum:
    """Principal components of a layer's outputs; the first ``directions`` of them are kept as vectors."""
    weight = linear.weight.detach().double()
    if statistics.of_outputs:
        mean = statistics.mean
        values, vectors = torch.linalg.eigh(statistics.covariance)
        values, vectors = values.flip(0), vectors.flip(1)
    else:
        mean = weight @ statistics.mean
        if linear.bias is not None:
            mean = mean + linear.bias.detach().double()
        inner, basis = torch.linalg.eigh(statistics.covariance)
        root = basis * inner.clamp(min=0).sqrt()
        vectors, singular, _ = torch.linalg.svd(weight @ root, full_matrices=False)
        values = singular.square()
    return Spectrum(mean, values.clamp(min=0), vectors[:, :directions].float().contiguous())


def factorise(linear: nn.Linear, spectrum: Spectrum, rank: int, rng: torch.Generator) -> LowRankLinear:
    """The layer with the smallest output error of that rank.

    The values between the two factors are turned by a random rotation, which changes nothing in exact
    arithmetic: along the principal directions a few of them would be far larger than the others, which 8-bit
    activations could not bear.

    Args:
        linear: what is approximated.
        spectrum: of its outputs, with at least ``rank`` directions.
        rank: of the factors.
        rng: of the rotation, on the CPU.
    """
    rotation, _ = torch.linalg.qr(torch.randn(rank, rank, generator=rng, dtype=torch.float64))
    basis = spectrum.directions[:, :rank].double()
    mean = spectrum.mean
    offset = mean if linear.bias is None else mean - linear.bias.detach().double()
    bias = mean - basis @ (basis.T @ offset)
    expand = basis @ rotation.to(basis.device)
    reduce = expand.T @ linear.weight.detach().double()
    module = LowRankLinear(linear.in_features, linear.out_features, rank)
    dtype = linear.weight.dtype
    module.reduce.weight = nn.Parameter(reduce.to(dtype), requires_grad=linear.weight.requires_grad)
    module.expand.weight = nn.Parameter(expand.to(dtype), requires_grad=linear.weight.requires_grad)
    module.expand.bias = nn.Parameter(bias.to(dtype), requires_grad=linear.weight.requires_grad)
    return module.train(linear.training)


def numbers(linear: nn.Linear, rank: int | None = None) -> int:
    """Weights and biases that a layer stores: as it is, or factorised, when it always has a bias."""
    if rank is None:
        return linear.weight.numel() + (0 if linear.bias is None else linear.out_features)
    return rank * (linear.in_features + linear.out_features) + linear.out_features


def largest_rank(linear: nn.Linear) -> int:
    """Largest multiple of ``RANK_MULTIPLE`` that stores and multiplies less than the layer, or 0."""
    inputs, outputs = linear.in_features, linear.out_features
    rank = min(inputs, outputs) // RANK_MULTIPLE * RANK_MULTIPLE
    while rank and (
        numbers(linear, rank) >= numbers(linear) or rank * (inputs + outputs) >= inputs * outputs
    ):
        rank -= RANK_MULTIPLE
    return rank


_Choice = tuple[int | None, int, float]  # rank, bytes, relative output error; rank None leaves a layer


def allot_ranks(
    linears: Mapping[str, nn.Linear], spectra: Mapping[str, Spectrum], budget: float
) -> dict[str, int | None]:
    """Ranks that lose least output variance for a share of the bytes; None leaves a layer as it is.

    Minimises the sum of the layers' relative output errors plus a price a byte; the price is raised until the
    bytes fit (a Lagrange multiplier, found by bisection). At one price every layer decides for itself. What
    that leaves of the budget goes to the ranks that win most a byte.

    Args:
        linears: name -> layer.
        spectra: name -> its spectrum.
        budget: bytes afterwards by bytes now, of all these layers together.

    Raises:
        ValueError: even the smallest ranks take more; the message tells how much.
    """
    choices: dict[str, list[_Choice]] = {}
    for name, linear in linears.items():
        size = linear.weight.element_size()
        choices[name] = [(None, size * numbers(linear), 0.0)]
        choices[name] += [
            (rank, size * numbers(linear, rank), spectra[name].error(rank))
            for rank in range(RANK_MULTIPLE, largest_rank(linear) + 1, RANK_MULTIPLE)
        ]
    dense = sum(options[0][1] for options in choices.values())
    least = sum(min(option[1] for option in options) for options in choices.values())
    if least > budget * dense:
        raise ValueError(f"the smallest ranks take {least / dense:.3f} of the bytes")
    low, high = 1e-30, 1e30  # prices; the higher one always fits
    while high > low * 1.000001:
        price = (low * high) ** 0.5
        fits = sum(option[1] for option in _at_price(choices, price).values()) <= budget * dense
        low, high = (low, price) if fits else (price, high)
    chosen = _at_price(choices, high)
    _spend(choices, chosen, budget * dense - sum(option[1] for option in chosen.values()))
    return {name: option[0] for name, option in chosen.items()}


def _at_price(choices: Mapping[str, Sequence[_Choice]], price: float) -> dict[str, _Choice]:
    """Of each layer the choice of the smallest error plus bytes * price."""
    return {
        name: min(options, key=lambda option: option[2] + price * option[1])
        for name, options in choices.items()
    }


def _spend(choices: Mapping[str, Sequence[_Choice]], chosen: dict[str, _Choice], left: float) -> None:
    """Change ``chosen`` to larger ones, those first that win most a byte, until none fits into ``left``."""
    while True:
        larger = [
            ((chosen[name][2] - option[2]) / (option[1] - chosen[name][1]), name, option)
            for name, options in choices.items()
            for option in options
            if 0 < option[1] - chosen[name][1] <= left
        ]
        if not larger:
            return
        _, name, option = max(larger, key=lambda change: change[0])
        left -= option[1] - chosen[name][1]
        chosen[name] = option
