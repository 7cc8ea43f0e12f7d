from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from audiolm_compress.quantization import (
    Int8Linear,
    QuantizedEmbedding,
    QuantizedLinear,
    Scheme,
    TiedHead,
    kernel_report,
    module_from_spec,
    prepare_modules,
    tie_heads,
)
from audiolm_compress.quantization.gptq import quantize_rounding
from audiolm_compress.quantization.grids import dequantize
from audiolm_compress.quantization.int4 import Int4Cpu
from audiolm_compress.quantization.kernels import Int8Cpu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def quantized(
    scheme: Scheme, outputs: int, inputs: int, dtype: torch.dtype
) -> tuple[QuantizedLinear, torch.Tensor, torch.Tensor]:
    """A layer, its float32 weights and its bias."""
    generator = torch.Generator().manual_seed(outputs + inputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator).to(dtype)
    result = quantize_rounding(weight, None, scheme, dtype=dtype)
    module = QuantizedLinear.from_codes(result.codes, result.grid, scheme, bias, dtype)
    return module, dequantize(result.codes, result.grid, scheme), bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [-1, 16, 32, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_same_answer_from_every_path(bits: int, group_size: int, symmetric: bool, dtype: torch.dtype) -> None:
    """Stored or prepared, few rows or many, any width: equal to float32 within the dtype's rounding."""
    for outputs, inputs in ((64, 128), (40, 100), (200, 320)):
        layer, weight, bias = quantized(Scheme(bits, group_size, symmetric), outputs, inputs, dtype)
        stored = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        for prepared in (False, True):
            if prepared:
                layer.prepare()
            for rows in (1, 5, 130):
                x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows)).to(dtype)
                expected = x.float() @ weight.T + bias.float()
                tolerance = 4 * torch.finfo(dtype).eps * float(expected.abs().max()) + 1e-4
                torch.testing.assert_close(layer(x).float(), expected, rtol=0, atol=tolerance)
        assert stored.keys() == layer.state_dict().keys()
        assert all(torch.equal(stored[name], tensor) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(4, 32),
        Scheme(4, 32, False),
        Scheme(8, -1),
        Scheme(3, 16),
        Scheme(4, 32, progressive=True),
        Scheme(3, 16, progressive=True),
    ],
    ids=str,
)
def test_spec_and_state_rebuild_the_layer(scheme: Scheme) -> None:
    layer, _, _ = quantized(scheme, 64, 128, torch.bfloat16)
    layer.prepare()
    again = module_from_spec(layer.spec())
    assert isinstance(again, QuantizedLinear)
    again.load_state_dict(layer.state_dict(), assign=True)
    again.prepare()
    x = torch.randn(3, 128, dtype=torch.bfloat16)
    assert torch.equal(layer(x), again(x))
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))
    assert layer.kernel.name == again.kernel.name
    prepared = module_from_spec(layer.spec())
    assert isinstance(prepared, QuantizedLinear)
    prepared.prepare()
    prepared.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), prepared(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [16, 32, 128])
def test_progressive_scales_from_every_path(bits: int, group_size: int, dtype: torch.dtype) -> None:
    """A byte a scale is stored; every path multiplies by the scales that the grid had."""
    for outputs, inputs in ((64, 128), (40, 100), (200, 320)):
        layer, weight, bias = quantized(Scheme(bits, group_size, progressive=True), outputs, inputs, dtype)
        stored = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        groups = -(-inputs // group_size)
        assert stored["multiples"].shape == (groups, outputs)
        assert stored["multiples"].abs().amin() >= 1
        assert stored["multiples"].abs().amax() <= 15
        assert stored["scales"].shape == (1, outputs)
        for prepared in (False, True):
            if prepared:
                layer.prepare()
            torch.testing.assert_close(layer.dense().float(), weight, rtol=0.01, atol=1e-3)
            x = torch.randn(130, inputs, generator=torch.Generator().manual_seed(0)).to(dtype)
            expected = x.float() @ weight.T + bias.float()
            tolerance = 4 * torch.finfo(dtype).eps * float(expected.abs().max()) + 1e-4
            torch.testing.assert_close(layer(x).float(), expected, rtol=0, atol=tolerance)
        assert stored.keys() == layer.state_dict().keys()
        assert all(torch.equal(stored[name], tensor) for name, tensor in layer.state_dict().items())


def test_kernels_are_named_and_slow_ones_announced() -> None:
    model = nn.ModuleDict(
        {
            "four": quantized(Scheme(4, 128), 64, 128, torch.bfloat16)[0],
            "eight": quantized(Scheme(8, -1), 64, 128, torch.bfloat16)[0],
            "three": quantized(Scheme(3, 128), 64, 128, torch.bfloat16)[0],
            "other": quantized(Scheme(4, 128), 64, 128, torch.float32)[0],
        }
    )
    warnings = prepare_modules(model)
    assert kernel_report(model) == {Int4Cpu.name: 1, Int8Cpu.name: 1, "dequantize": 2}
    assert len(warnings) == 2
    assert all("may be slower than 16 bit" in warning for warning in warnings)


@pytest.mark.parametrize(("bits", "per_weight"), [(2, 2.5), (3, 3.5), (4, 5.0), (8, 8.5)])
def test_nothing_but_packed_weights_in_memory(bits: int, per_weight: float) -> None:
    layer, weight, _ = quantized(Scheme(bits, 32 if bits < 8 else -1), 256, 512, torch.bfloat16)
    layer.bias = None
    layer.prepare()
    held = sum(tensor.untyped_storage().nbytes() for tensor in layer.buffers())
    assert not list(layer.parameters())
    assert held * 8 <= per_weight * weight.numel()


def test_casting_a_prepared_layer_changes_its_kernel() -> None:
    layer, weight, _ = quantized(Scheme(4, 32), 64, 128, torch.bfloat16)
    layer.prepare()
    layer.to(torch.float32)
    assert layer.dtype == torch.float32
    assert layer.kernel.name == "dequantize"
    torch.testing.assert_close(layer.dense(), weight)


def test_gradient_reaches_the_input() -> None:
    layer, weight, _ = quantized(Scheme(4, 32), 64, 128, torch.bfloat16)
    layer.prepare()
    x = torch.randn(2, 128, dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0].float(), weight.sum(0), rtol=0.02, atol=0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_scales_and_head_reads_its_weights(dtype: torch.dtype) -> None:
    weight = torch.randn(100, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    model = nn.ModuleDict({"embedding": QuantizedEmbedding.from_weight(weight, embed_scale=8.0)})
    embedding = model["embedding"]
    model["head"] = TiedHead("embedding", embedding)
    ids = torch.tensor([[3, 99], [0, 3]])
    torch.testing.assert_close(embedding(ids).float(), 8 * weight[ids].float(), rtol=0.02, atol=0.15)
    for rows in (1, 40):
        x = torch.randn(rows, 64).to(dtype)
        expected = x.float() @ embedding.dense().float().T
        torch.testing.assert_close(model["head"](x).float(), expected, rtol=0.02, atol=0.1)
    assert set(model.state_dict()) == {"embedding.codes", "embedding.scales"}

    again = nn.ModuleDict({name: module_from_spec(module.spec()) for name, module in model.items()})
    again.load_state_dict(model.state_dict())
    tie_heads(again)
    assert torch.equal(again["head"](x), model["head"](x))
    assert torch.equal(again["embedding"](ids), embedding(ids))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_head_is_converted_in_chunks(dtype: torch.dtype) -> None:
    """Beams of a batch: no 16-bit copy of the matrix, and the same logits as one product."""
    generator = torch.Generator().manual_seed(0)
    embedding = QuantizedEmbedding.from_weight(torch.randn(13_000, 256, generator=generator).to(dtype))
    x = torch.randn(40, 1, 256, generator=generator).to(dtype)
    found = TiedHead("embedding", embedding)(x)
    assert found.shape == (40, 1, 13_000)
    expected = x.float() @ embedding.dense().float().T
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.2)


def test_preparing_again_rearranges_nothing() -> None:
    linear = nn.Linear(64, 48)
    model = nn.ModuleDict(
        {
            "four": quantized(Scheme(4, 32), 64, 128, torch.bfloat16)[0],
            "three": quantized(Scheme(3, 32), 64, 128, torch.bfloat16)[0],
            "encoder": Int8Linear.from_linear(linear),
        }
    )
    warnings = prepare_modules(model)
    held = {name: id(tensor) for name, tensor in model.named_buffers()}
    assert prepare_modules(model) == warnings
    assert {name: id(tensor) for name, tensor in model.named_buffers()} == held


def test_rows_of_several_pieces_and_their_error() -> None:
    weight = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    embedding = QuantizedEmbedding.from_weight(weight)
    dense, exact = embedding.dense().double(), weight.double()
    expected = (dense - exact).square().sum() / exact.square().sum()
    assert embedding.error(weight) == pytest.approx(float(expected), rel=1e-4)
    assert 0 < expected < 1e-4
    assert torch.equal(embedding.dense()[-5:], QuantizedEmbedding.from_weight(weight[-5:]).dense())
