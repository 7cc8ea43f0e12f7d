"""Training scales with fixed integers: the same function, the exact gradient, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from audiolm_compress.quantization import Scheme
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.quantization.trainable import TrainableScales

Packed = Callable[..., PackedLinear]
Integers = Callable[[PackedLinear], dict[str, torch.Tensor]]
SCHEMES = [Scheme(4, 32), Scheme(4, 32, False), Scheme(8, -1), Scheme(3, 16), Scheme(4, 32, progressive=True)]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", [*SCHEMES, Scheme(8, 48, False), Scheme(2, 50), None], ids=str)
def test_it_stands_for_the_layer(packed: Packed, scheme: Scheme | None, dtype: torch.dtype) -> None:
    layer = packed(scheme, dtype)
    twin = TrainableScales(layer)
    tolerance = 2 * torch.finfo(dtype).eps * float(layer.dense().float().abs().max())
    torch.testing.assert_close(twin.weight(), layer.dense().float(), rtol=0, atol=tolerance)
    x = torch.randn(3, 7, 128).to(dtype).requires_grad_()
    torch.testing.assert_close(twin(x), layer(x), rtol=2e-2, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scheme", [*SCHEMES, Scheme(2, 50), None], ids=str)
def test_gradient_is_that_of_the_weights_summed_over_a_scale(packed: Packed, scheme: Scheme | None) -> None:
    """Against finite differences, which are exact: the output is linear in each scale."""
    twin = TrainableScales(packed(scheme)).double()
    x = torch.randn(6, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    upstream = torch.randn(6, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (twin(x) * upstream).sum().backward()
    assert twin.changes.grad is not None
    with torch.no_grad():
        for group, output in ((0, 5), (len(twin.changes) - 1, 63)):
            before = (twin(x) * upstream).sum()
            twin.changes[group, output] += 1.0
            change = (twin(x) * upstream).sum() - before
            twin.changes[group, output] -= 1.0
            torch.testing.assert_close(twin.changes.grad[group, output], change)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", [*SCHEMES, Scheme(8, 48, False), None], ids=str)
def test_writing_back_changes_scales_and_bias_alone(
    packed: Packed, integers: Integers, scheme: Scheme | None, dtype: torch.dtype
) -> None:
    layer = packed(scheme, dtype)
    before, kernel = integers(layer), layer.kernel.name
    twin = TrainableScales(layer)
    with torch.no_grad():
        twin.changes.add_(0.1 * torch.rand(twin.changes.shape))
        assert isinstance(twin.bias, nn.Parameter)
        twin.bias.add_(1)
    twin.write_to(layer)
    after = integers(layer)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(layer.stored()["scales"].flatten(), twin.scales.flatten().to(dtype))
    assert torch.equal(layer.bias, twin.bias)
    assert layer.kernel.name == kernel
    x = torch.randn(2, 128).to(dtype).requires_grad_()
    torch.testing.assert_close(layer(x), twin(x), rtol=2e-2, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounded_scales_are_those_that_are_written(packed: Packed, dtype: torch.dtype) -> None:
    """So that a loss measured before writing is that of the layer."""
    layer = packed(SCHEMES[0], dtype)
    twin = TrainableScales(layer)
    with torch.no_grad():
        twin.changes.add_(0.1 * torch.rand(twin.changes.shape))
    expected = twin.scales.detach().to(dtype)
    twin.round_scales(dtype)
    torch.testing.assert_close(twin.scales.detach(), expected.float(), rtol=1e-6, atol=0)
    twin.write_to(layer)
    assert torch.equal(layer.stored()["scales"], expected)


def test_what_would_lose_the_integers_is_refused(packed: Packed) -> None:
    layer = packed(SCHEMES[1])
    before = layer.stored()["scales"].clone()
    twin = TrainableScales(layer)
    with torch.no_grad():
        twin.changes[0, 0] = -1
    with pytest.raises(ValueError, match="would be 0 or not finite"):
        twin.write_to(layer)
    assert torch.equal(layer.stored()["scales"], before)
