from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from audiolm_compress.quantization import kernel_report, module_from_spec, prepare_modules
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.int8_products import Dequantized, OneDnn
from audiolm_compress.quantization.rows import quantize_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def dense(inputs: int, outputs: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias=bias).to(dtype).requires_grad_(False)


def int8(inputs: int, outputs: int, dtype: torch.dtype, bias: bool = True) -> Int8Linear:
    layer = Int8Linear.from_linear(dense(inputs, outputs, dtype, bias))
    layer.prepare()
    return layer


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    x[..., 0] *= 20  # an outlier channel
    return x.to(dtype)


def reference(layer: Int8Linear, x: Tensor) -> Tensor:
    """The layer in int64 and float64; which codes a row gets is tested apart."""
    state = layer.state_dict()
    codes, scales = quantize_rows(x.flatten(0, -2))
    y = (codes.long() @ state["codes"].long().T).double() * scales.double() * state["scales"].double()
    if "bias" in state:
        y += state["bias"].double()
    return y.view(*x.shape[:-1], -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 48), (1, 1280), (600, 520), (3, 1), (300, 2000)])
def test_rows_get_the_nearest_codes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Within the rounding of a reciprocal of the nearest code; the largest of a row gets 127."""
    x = sample(*shape, dtype=dtype)
    codes, scales = quantize_rows(x)
    exact = x.double() / scales.double()
    assert codes.dtype == torch.int8
    assert float((codes.double() - exact).abs().max()) <= 0.5001
    assert (codes.abs().amax(1) == 127).all()
    largest = x.double().abs().amax(1, keepdim=True)
    torch.testing.assert_close(scales.double() * 127, largest, rtol=2**-8, atol=0)
    shifted, same = quantize_rows(x, offset=128)
    assert torch.equal(shifted.int() - 128, codes.int())
    assert torch.equal(same, scales)


def test_rows_of_zeros_and_of_tiny_numbers() -> None:
    x = torch.tensor([[0.0, 0.0], [1e-30, -5e-31], [-3e38, 1.0]])
    codes, scales = quantize_rows(x)
    assert codes.tolist() == [[0, 0], [127, -64], [-127, 0]] or codes[1, 1] == -63
    assert scales.isfinite().all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 128), (37, 53), (1, 16), (200, 1), (1280, 96)])
def test_product_is_that_of_integers(inputs: int, outputs: int, dtype: torch.dtype, bias: bool) -> None:
    layer = int8(inputs, outputs, dtype, bias)
    for shape in ((1, inputs), (5, inputs), (130, inputs), (2, 3, inputs)):
        x = sample(*shape, dtype=dtype)
        found, exact = layer(x), reference(layer, x)
        assert found.dtype == dtype
        assert found.shape == exact.shape
        # Two roundings to the dtype: the product, and what scale and bias make of it.
        tolerance = 2.5 * torch.finfo(dtype).eps * float(exact.abs().max())
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=tolerance)


def test_close_to_the_dense_layer() -> None:
    linear = dense(256, 64, torch.float32)
    layer = Int8Linear.from_linear(linear)
    layer.prepare()
    x = torch.randn(50, 256, generator=torch.Generator().manual_seed(0))
    exact = linear(x)
    assert float((layer(x) - exact).norm()) < 0.02 * float(exact.norm())
    step = float(layer.state_dict()["scales"].max())
    assert float((layer.dense() - linear.weight).abs().max()) <= 0.51 * step


def test_empty_batches_and_strided_inputs() -> None:
    layer = int8(40, 24, torch.float32)
    assert layer(torch.empty(0, 40)).shape == (0, 24)
    assert layer(torch.empty(2, 0, 40)).shape == (2, 0, 24)
    x = sample(40, 6).T
    assert torch.equal(layer(x), layer(x.contiguous()))
    assert torch.equal(layer(x[:, :40][::2]), layer(x)[::2])


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    layer = int8(96, 32, torch.bfloat16)
    x = sample(9, 96, dtype=torch.bfloat16)
    loud = torch.cat([x, 1000 * x])
    assert torch.equal(layer(loud)[:9], layer(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_and_spec_rebuild_the_layer_bit_by_bit(dtype: torch.dtype) -> None:
    layer = int8(72, 40, dtype)
    state = layer.state_dict()
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "bias": dtype,
        "codes": torch.int8,
        "scales": dtype,
    }
    assert state["codes"].shape == (40, 72)
    x = sample(7, 72, dtype=dtype)
    with torch.device("meta"):
        again = module_from_spec(layer.spec())
    again.load_state_dict(state, assign=True)
    prepare_modules(again)
    prepared = module_from_spec(layer.spec())
    prepare_modules(prepared)
    prepared.load_state_dict(state)
    for other in (again, prepared, copy.deepcopy(layer)):
        assert isinstance(other, Int8Linear)
        assert other.kernel.name == layer.kernel.name
        assert other.dtype == dtype
        assert torch.equal(other(x), layer(x))
        assert all(torch.equal(state[name], tensor) for name, tensor in other.state_dict().items())


def test_casting_keeps_codes_and_product() -> None:
    layer = int8(64, 48, torch.float32)
    before = layer.state_dict()["codes"].clone()
    layer.to(torch.bfloat16)
    assert layer.dtype == torch.bfloat16
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16
    assert layer.kernel.name == OneDnn.name
    assert torch.equal(layer.state_dict()["codes"], before)
    x = sample(5, 64, dtype=torch.bfloat16)
    tolerance = 2.5 * torch.finfo(torch.bfloat16).eps * float(reference(layer, x).abs().max())
    torch.testing.assert_close(layer(x).double(), reference(layer, x), rtol=0, atol=tolerance)


def test_packed_weights_are_the_only_copy() -> None:
    layer = int8(512, 256, torch.bfloat16)
    assert not list(layer.parameters())
    assert sum(t.numel() * t.element_size() for t in layer.buffers()) < 1.05 * 512 * 256


def test_kernels_are_named_and_a_missing_product_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    from audiolm_compress.quantization import int8_products

    layer = int8(64, 48, torch.float32)
    assert kernel_report(nn.Sequential(layer)) == {OneDnn.name: 1}
    monkeypatch.setattr(int8_products, "_onednn_is_exact", lambda: False)
    (warning,) = prepare_modules(nn.Sequential(layer))
    assert "may be slower than 16 bit" in warning
    assert kernel_report(nn.Sequential(layer)) == {Dequantized.name: 1}
    x = sample(5, 64)
    expected = nn.functional.linear(x, layer.dense(), layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_gradient_reaches_the_input() -> None:
    layer = int8(64, 48, torch.float32)
    x = sample(3, 64).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.dense().sum(0).expand(3, -1))
