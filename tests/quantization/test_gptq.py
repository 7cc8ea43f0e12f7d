from __future__ import annotations

import pytest
import torch
from torch import Tensor

from audiolm_compress.errors import PassError
from audiolm_compress.quantization.gptq import Hessian, quantize_gptq
from audiolm_compress.quantization.grids import Grid, Scheme, dequantize, fit_grid, round_to_grid


def layer(outputs: int = 48, inputs: int = 96, rows: int = 600) -> tuple[Tensor, Tensor]:
    """A weight and correlated inputs of very different sizes."""
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.rand(inputs, generator=generator) ** 3
    return torch.randn(outputs, inputs, generator=generator), torch.randn(
        rows, inputs, generator=generator
    ) @ mixing


def hessian_of(inputs: Tensor) -> Tensor:
    hessian = Hessian(inputs.shape[1])
    for part in inputs.split(97):
        hessian.add(part)
    return hessian.matrix


def test_hessian_is_the_mean_outer_product() -> None:
    _, inputs = layer()
    torch.testing.assert_close(hessian_of(inputs), inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [-1, 16, 64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_beats_rounding_and_tells_the_true_error(bits: int, group_size: int, symmetric: bool) -> None:
    weight, inputs = layer()
    scheme = Scheme(bits, group_size, symmetric)
    result = quantize_gptq(weight, hessian_of(inputs), scheme)
    outputs = inputs @ weight.T

    def error(grid: Grid, codes: Tensor) -> float:
        return float(
            (inputs @ dequantize(codes, grid, scheme).T - outputs).square().sum() / outputs.square().sum()
        )

    plain = fit_grid(weight, scheme)
    assert result.error == pytest.approx(error(result.grid, result.codes), rel=1e-2)
    assert result.rounding_error == pytest.approx(
        error(plain, round_to_grid(weight, plain, scheme)), rel=1e-2
    )
    assert result.error < result.rounding_error


def test_is_the_algorithm_of_the_paper() -> None:
    """Without sweeps: column by column as equations 2 and 3 say, the inverse Hessian recomputed for each."""
    weight, inputs = layer(outputs=8, inputs=40)
    hessian, scheme = hessian_of(inputs), Scheme(4, 16)
    result = quantize_gptq(weight, hessian, scheme, act_order=False, sweeps=0)
    damped = hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(40)
    left, expected = weight.double().clone(), torch.empty_like(result.codes)
    for j in range(40):
        inverse = damped[j:, j:].inverse()
        scale, zero = result.grid.scales[j // 16].double(), result.grid.zeros[j // 16].double()
        code = (left[:, j] / scale + zero).round().clamp(0, 15)
        expected[:, j] = code.to(torch.uint8)
        error = (left[:, j] - (code - zero) * scale) / inverse[0, 0]
        left[:, j:] -= error[:, None] * inverse[0]
    assert (result.codes == expected).float().mean() > 0.99  # ties may fall either way


def test_sweeps_and_order_help() -> None:
    weight, inputs = layer()
    hessian = hessian_of(inputs)
    errors = [quantize_gptq(weight, hessian, Scheme(3, 32), sweeps=sweeps).error for sweeps in (0, 1, 3)]
    assert errors[0] > errors[1] > errors[2]
    natural = quantize_gptq(weight, hessian, Scheme(3, 32), sweeps=0, act_order=False)
    assert errors[0] < natural.error


def test_stacked_layers_keep_their_own_figures() -> None:
    weight, inputs = layer()
    hessian = hessian_of(inputs)
    stacked = quantize_gptq(weight, hessian, Scheme(4, 32))
    alone = quantize_gptq(weight[:20], hessian, Scheme(4, 32))
    part = stacked.outputs(0, 20)
    assert (part.codes == alone.codes).float().mean() > 0.999
    assert part.error == pytest.approx(alone.error, rel=1e-3)


def test_dead_inputs_are_rounded_not_ruined() -> None:
    weight, inputs = layer()
    inputs[:, ::3] = 0
    result = quantize_gptq(weight, hessian_of(inputs), Scheme(4, 32))
    dead = dequantize(result.codes, result.grid, Scheme(4, 32))[:, ::3]
    assert (dead - weight[:, ::3]).norm() < 0.2 * weight[:, ::3].norm()


def test_no_input_at_all_is_plain_rounding() -> None:
    weight, _ = layer()
    result = quantize_gptq(weight, torch.zeros(96, 96), Scheme(4, 32))
    assert torch.equal(result.codes, round_to_grid(weight, fit_grid(weight, Scheme(4, 32)), Scheme(4, 32)))


def test_damping_rises_until_the_hessian_is_positive() -> None:
    weight, _ = layer()
    hessian = torch.eye(96)
    hessian[0, 1] = hessian[1, 0] = 1.05  # an eigenvalue of -0.05
    result = quantize_gptq(weight, hessian, Scheme(4, 32))
    assert result.damping == pytest.approx(0.1)


def test_broken_inputs_are_refused() -> None:
    weight, inputs = layer()
    inputs[3, 4] = float("nan")
    with pytest.raises(PassError, match="NaN"):
        quantize_gptq(weight, hessian_of(inputs), Scheme(4, 32))
