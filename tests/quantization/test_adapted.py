"""Adapters beside plain and packed layers: the sum they stand for, DoRA's lengths, building them again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from audiolm_compress.quantization import Scheme, module_from_spec
from audiolm_compress.quantization.adapted import AdaptedLinear, adapted_weight, dense_weight, row_factors
from audiolm_compress.quantization.packed_linear import PackedLinear

Packed = Callable[..., PackedLinear]
Integers = Callable[[PackedLinear], dict[str, torch.Tensor]]
SCHEMES = [Scheme(4, 32), Scheme(4, 32, False), Scheme(8, -1), Scheme(3, 16), Scheme(4, 32, progressive=True)]


def factors(rank: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rank, 128, generator=generator) / 16, torch.randn(64, rank, generator=generator) / 4


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("use_dora", [False, True])
def test_the_sum_is_the_one_that_peft_merges(use_rslora: bool, use_dora: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 64)
    config = LoraConfig(r=4, lora_alpha=6, use_rslora=use_rslora, use_dora=use_dora)
    layer = LoraLinear(linear, "default", config, r=4, lora_alpha=6)
    magnitude = None
    with torch.no_grad():
        nn.init.normal_(layer.lora_B["default"].weight)
        if use_dora:
            magnitude = layer.lora_magnitude_vector["default"].weight
            magnitude.mul_(1.5)
    scaling = 6 / 2 if use_rslora else 6 / 4
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    found = adapted_weight(linear.weight, a, scaling * b, magnitude)
    layer.merge()
    torch.testing.assert_close(found, linear.weight)


@pytest.mark.parametrize("scheme", [*SCHEMES, None], ids=str)
def test_doras_lengths_go_into_the_scales_of_a_packed_layer(
    packed: Packed, integers: Integers, scheme: Scheme | None
) -> None:
    """What is kept computes what DoRA's formula says, and no integer has changed."""
    layer = packed(scheme)
    (a, b), before, weight = factors(), integers(layer), dense_weight(layer).clone()
    magnitude = torch.linspace(0.5, 2.0, 64)
    expected = adapted_weight(weight, a, b, magnitude)
    torch.testing.assert_close(expected.norm(dim=1), magnitude)
    adapted = AdaptedLinear.from_factors(layer, a, b, magnitude)
    x = torch.randn(5, 3, 128, generator=torch.Generator().manual_seed(2)).requires_grad_()
    torch.testing.assert_close(
        adapted(x), nn.functional.linear(x, expected, layer.bias), rtol=1e-4, atol=1e-4
    )
    after = integers(layer)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_doras_lengths_go_into_the_weights_of_a_plain_layer() -> None:
    linear = nn.Linear(128, 64).requires_grad_(False)
    (a, b), magnitude = factors(), torch.linspace(0.5, 2.0, 64)
    expected = adapted_weight(linear.weight, a, b, magnitude)
    adapted = AdaptedLinear.from_factors(linear, a, b, magnitude)
    torch.testing.assert_close(adapted.folded().weight, expected)


def test_without_an_adapter_a_row_keeps_its_length() -> None:
    weight, (a, b) = torch.randn(64, 128), factors()
    assert torch.allclose(row_factors(weight, a, 0 * b, weight.norm(dim=1)), torch.ones(64))


def test_folding_rounds_once() -> None:
    linear = nn.Linear(128, 64, dtype=torch.bfloat16).requires_grad_(False)
    a, b = factors()
    adapted = AdaptedLinear.from_factors(linear, a, b)
    expected = linear.weight.float() + adapted.lora_B.weight.float() @ adapted.lora_A.weight.float()
    assert torch.equal(adapted.folded().weight, expected.to(torch.bfloat16))


def test_a_packed_layer_cannot_be_folded_into(packed: Packed) -> None:
    adapted = AdaptedLinear.from_factors(packed(SCHEMES[0]), *factors())
    assert not adapted.foldable
    with pytest.raises(TypeError, match="cannot be added to the weights of a QuantizedLinear"):
        adapted.folded()


@pytest.mark.parametrize("scheme", [SCHEMES[0], None, "plain"], ids=str)
def test_spec_and_state_rebuild_the_layer(packed: Packed, scheme: Scheme | str | None) -> None:
    base = (
        nn.Linear(128, 64, bias=False, dtype=torch.bfloat16)
        if isinstance(scheme, str)
        else packed(scheme, torch.bfloat16)
    )
    layer = AdaptedLinear.from_factors(base, *factors())
    with torch.device("meta"):
        again = module_from_spec(layer.spec())
    again.load_state_dict(layer.state_dict(), assign=True)
    if isinstance(again.base_layer, PackedLinear):
        again.base_layer.prepare()
    x = torch.randn(3, 128, dtype=torch.bfloat16)
    assert torch.equal(again(x), layer(x))
    assert again.spec() == layer.spec()
