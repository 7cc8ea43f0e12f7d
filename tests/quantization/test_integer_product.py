from __future__ import annotations

from typing import Any

import pytest
import torch

from audiolm_compress.quantization import (
    QuantizedLinear,
    Scheme,
    int4,
    kernel_choice,
    kernels,
    module_from_spec,
)
from audiolm_compress.quantization.gptq import quantize_rounding
from audiolm_compress.quantization.integer_product import int_mm_is_exact, ratios_of
from audiolm_compress.quantization.rows import round_rows

PROGRESSIVE = Scheme(4, 32, progressive=True)
FORMATS = [Scheme(4, 32), Scheme(4, 128), PROGRESSIVE, Scheme(4, -1), Scheme(8, -1)]
SHAPES = [(64, 128), (200, 320), (1100, 2432)]  # the last is computed in several chunks


def layer_of(scheme: Scheme, outputs: int, inputs: int, activations: int = 8) -> QuantizedLinear:
    generator = torch.Generator().manual_seed(outputs + inputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    weight *= torch.rand(1, inputs, generator=generator) + 0.1  # groups of different scales
    result = quantize_rounding(weight, None, scheme, dtype=torch.bfloat16)
    bias = torch.randn(outputs, generator=generator).bfloat16()
    layer = QuantizedLinear.from_codes(
        result.codes, result.grid, scheme, bias, torch.bfloat16, activations=activations
    )
    return prepared(layer)


def prepared(layer: QuantizedLinear) -> QuantizedLinear:
    """With the product that large layers choose for many positions."""
    layer.prepare()
    kernel: Any = layer.kernel
    kernel.integer = layer.activations == 8
    return layer


def rows_of(inputs: int, rows: int = 320) -> torch.Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows)).bfloat16()


def share(error: torch.Tensor, of: torch.Tensor) -> float:
    return float(error.square().mean() / of.square().mean())


@pytest.mark.parametrize("scheme", FORMATS, ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_many_rows_against_rounded_inputs_times_dense_weights(
    scheme: Scheme, outputs: int, inputs: int
) -> None:
    layer, x = layer_of(scheme, outputs, inputs), rows_of(inputs)
    rounded = round_rows(x)
    inputs_used = rounded.codes.float() * rounded.scales
    assert share(inputs_used - x.float(), x.float()) < 1e-4
    assert layer.bias is not None
    expected = inputs_used @ layer.dense().float().T + layer.bias.float()
    # Ratios of groups are rounded; progressive ones are exact, whole rows have none: only bfloat16 rounds.
    allowed = 3e-5 if scheme.progressive or scheme.group_size < 0 else 1.5e-4
    assert share(layer(x).float() - expected, expected) < allowed


@pytest.mark.parametrize("scheme", FORMATS, ids=str)
def test_a_row_does_not_depend_on_its_neighbours(scheme: Scheme) -> None:
    layer, x = layer_of(scheme, 200, 320), rows_of(320, 1200)
    x[7] = 0
    y = layer(x)
    assert torch.equal(y[300:900], layer(x[300:900]))
    assert layer.bias is not None
    assert torch.equal(y[7], layer.bias)


@pytest.mark.parametrize("scheme", FORMATS, ids=str)
def test_the_length_decides_on_precision_and_not_the_batch(scheme: Scheme) -> None:
    layer, same = layer_of(scheme, 200, 320), layer_of(scheme, 200, 320, activations=16)
    prompts = rows_of(320, 200).view(40, 5, 320)
    together = layer(prompts)
    assert all(torch.equal(layer(prompt[None])[0], y) for prompt, y in zip(prompts, together, strict=True))
    assert torch.equal(layer(prompts[0]), together[0])
    assert not torch.equal(together, same(prompts))
    tokens = rows_of(320, 130)[:, None]  # more rows than the products for few take
    for count in (1, 40, 130):
        assert torch.equal(layer(tokens[:count]), same(tokens[:count]))
        torch.testing.assert_close(layer(tokens[:count]), layer(tokens)[:count], rtol=0.016, atol=0.1)
    assert torch.equal(layer(tokens[0, 0]), layer(tokens[:1])[0, 0])


@pytest.mark.parametrize("scheme", FORMATS, ids=str)
def test_sixteen_bit_inputs_on_request(scheme: Scheme) -> None:
    layer, x = layer_of(scheme, 200, 320, activations=16), rows_of(320)
    assert layer.bias is not None
    expected = x.float() @ layer.dense().float().T + layer.bias.float()
    assert share(layer(x).float() - expected, expected) < 3e-5
    assert share(layer_of(scheme, 200, 320)(x).float() - expected, expected) > 5e-5


def test_saved_and_loaded_equal_with_many_rows() -> None:
    layer, x = layer_of(Scheme(4, 32), 200, 320), rows_of(320)
    again = module_from_spec(layer.spec())
    assert isinstance(again, QuantizedLinear)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), prepared(again)(x))
    assert again.spec() == layer.spec()


def test_ratios_are_near_and_make_bytes() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.randn(9, 50, generator=generator)
    ratios = ratios_of(scales)
    assert ratios.whole is not None
    assert ratios.sixteenths is not None
    multiples = ratios.whole + ratios.sixteenths / 16
    assert ((multiples * ratios.unit - scales).abs() <= ratios.unit / 31).all()
    assert (multiples.abs() * 8 <= 127).all()


def test_outliers_keep_their_digits_and_leave_theirs_to_the_others() -> None:
    x = rows_of(320)
    x[:, [5, 77]] *= 300
    outliers = torch.tensor([5, 77])
    rounded = round_rows(x, outliers)
    assert rounded.high is not None
    values = rounded.codes.float()
    values[:, outliers] += 128 * rounded.high.float()
    error = values * rounded.scales - x.float()
    assert (error.abs() <= 0.51 * rounded.scales).all()
    assert share(error, rows_of(320).float()) < 1e-4 < share(x.float() - round_trip(x), rows_of(320).float())


def round_trip(x: torch.Tensor) -> torch.Tensor:
    rounded = round_rows(x)
    return rounded.codes.float() * rounded.scales


@pytest.mark.parametrize("scheme", FORMATS, ids=str)
def test_outliers_are_saved_and_multiplied(scheme: Scheme) -> None:
    plain, x = layer_of(scheme, 200, 320), rows_of(320)
    x[:, [5, 77]] *= 100
    layer = QuantizedLinear(320, 200, scheme, bias=True, dtype=torch.bfloat16, activations=8, outliers=2)
    layer.load_state_dict(plain.state_dict() | {"outliers": torch.tensor([5, 77])})
    prepared(layer)
    assert layer.bias is not None
    exact = x.float() @ layer.dense().float().T + layer.bias.float()
    small = x.clone()
    small[:, [5, 77]] = 0
    scale = small.float() @ layer.dense().float().T
    assert share(layer(x).float() - exact, exact) < 1.5e-4
    assert share(layer(small).float() - scale - layer.bias.float(), scale) < 3e-4
    again = module_from_spec(layer.spec())
    assert isinstance(again, QuantizedLinear)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(prepared(again)(x), layer(x))
    assert not torch.equal(plain(x), layer(x))


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(8, -1)], ids=str)
def test_where_products_of_bytes_are_wrong_inputs_stay_sixteen_bit(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, x = layer_of(scheme, 1024, 640, activations=16), rows_of(640)
    assert int_mm_is_exact()
    for module in (int4, kernel_choice, kernels):
        monkeypatch.setattr(module, "int_mm_is_exact", lambda: False)
    layer = module_from_spec(same.spec() | {"activations": 8})
    assert isinstance(layer, QuantizedLinear)
    layer.load_state_dict(same.state_dict())
    assert "inputs stay 16 bit" in layer.prepare()
    assert torch.equal(layer(x), same(x))
