from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiolm_compress.quantization.grids import Scheme, dequantize, fit_grid, round_to_grid

SCHEMES = [
    Scheme(bits, group, symmetric)
    for bits in (2, 3, 4, 8)
    for group in (-1, 16, 128)
    for symmetric in (True, False)
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("width", [1, 40, 128, 200])
def test_every_width_and_half_a_step(scheme: Scheme, width: int) -> None:
    """Plain rounding is off by half a step at most, at the clipped end of symmetric grids included."""
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
    grid = fit_grid(weight, scheme)
    assert grid.scales.shape == (scheme.groups(width), 5)
    codes = round_to_grid(weight, grid, scheme)
    assert int(codes.max()) <= scheme.top
    steps = grid.scales.T.repeat_interleave(scheme.width(width), 1)[:, :width]
    # An integer zero point can shift an asymmetric grid by another half step.
    limit = 0.501 if scheme.symmetric else 1.001
    assert ((dequantize(codes, grid, scheme) - weight).abs() <= limit * steps).all()


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.bits < 8], ids=str)
def test_search_lowers_the_weighted_error(scheme: Scheme) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 256, generator=generator)
    importance = torch.rand(256, generator=generator) ** 4

    def error(grid_importance: torch.Tensor | None) -> float:
        grid = fit_grid(weight, scheme, grid_importance)
        rounded = dequantize(round_to_grid(weight, grid, scheme), grid, scheme)
        return float(((rounded - weight).square() * importance).sum())

    assert error(importance) < error(None)


def test_zeros_stay_zero() -> None:
    weight = torch.zeros(3, 40)
    for scheme in SCHEMES:
        grid = fit_grid(weight, scheme, torch.ones(40), torch.float16)
        assert torch.equal(dequantize(round_to_grid(weight, grid, scheme), grid, scheme), weight)


@pytest.mark.parametrize("importance", [None, torch.ones(96)])
def test_progressive_scales_are_multiples_of_a_unit(importance: torch.Tensor | None) -> None:
    weight = torch.randn(20, 96, generator=torch.Generator().manual_seed(0))
    weight[:, 32:64] *= 5
    scheme = Scheme(4, 32, progressive=True)
    grid = fit_grid(weight, scheme, importance, torch.bfloat16)
    assert grid.unit is not None
    ratios = grid.scales / grid.unit
    assert (ratios - ratios.round()).abs().max() < 0.1  # the product is rounded to bfloat16 again
    assert ratios.abs().round().amax(0).eq(15).all()
    free = fit_grid(weight, Scheme(4, 32), importance, torch.bfloat16)
    assert ((grid.scales - free.scales).abs() <= 0.52 * grid.unit).all()


def test_progressive_bytes_need_few_levels() -> None:
    for wrong in (Scheme(8, 32), Scheme(4, -1), Scheme(4, 32, symmetric=False)):
        with pytest.raises(ValueError, match="progressive scales need"):
            replace(wrong, progressive=True)


@pytest.mark.parametrize("wrong", [{"bits": 5}, {"group_size": 0}, {"group_size": -2}])
def test_unknown_formats_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="choose"):
        Scheme(**wrong)
