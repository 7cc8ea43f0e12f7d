"""Bits by sensitivity: measured on the model as it is, spent where they save most, never beyond the mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, PassReport
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.mixed_precision import Measuring, choose, divergence
from audiolm_compress.planning.layers import file_bytes
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.gptq import Hessian, quantize_gptq
from audiolm_compress.quantization.grids import dequantize
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model

SmallModel = Callable[..., Salmonn]
SCHEME = Scheme(2, 32)
AUTO = {"bits": "auto", "average_bits": 3.5, "group_size": 32, "sensitivity_clips": 2}


def layers_of(model: Salmonn) -> dict[str, QuantizedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def mean_bits(layers: dict[str, QuantizedLinear]) -> float:
    sizes = {name: layer.in_features * layer.out_features for name, layer in layers.items()}
    return sum(sizes[name] * layer.scheme.bits for name, layer in layers.items()) / sum(sizes.values())


@pytest.fixture
def quantised(small_model: SmallModel, context: Context) -> tuple[Salmonn, PassReport]:
    model = small_model("llama")
    settings = AUTO | {"overrides": [{"match": "*.layers.0.mlp.down_proj", "bits": 8, "group_size": -1}]}
    return model, Gptq.model_validate(settings).apply(model, context)


def test_the_mean_is_kept_and_overrides_win(quantised: tuple[Salmonn, PassReport]) -> None:
    model, report = quantised
    layers = layers_of(model)
    (settled,) = [name for name in layers if name.endswith("layers.0.mlp.down_proj")]
    assert layers.pop(settled).scheme == Scheme(8, -1)
    assert len({layer.scheme.bits for layer in layers.values()}) > 1
    assert mean_bits(layers) <= 3.5
    assert report.figures["average_bits"] == pytest.approx(mean_bits(layers))
    rows = {row["name"]: row for row in report.modules}
    assert {name: row["bits"] for name, row in rows.items()} == {
        name: layer.scheme.bits for name, layer in layers_of(model).items()
    }
    assert not [key for key in rows[settled] if key.startswith("S at")]
    assert any(note.startswith("bits by sensitivity: ") for note in report.notes)


def test_what_is_chosen_costs_no_more_than_one_width_for_all(
    small_model: SmallModel, context: Context
) -> None:
    report = Gptq.model_validate(AUTO | {"average_bits": 4.0}).apply(small_model("llama"), context)
    assert all(row["S at 2 bit"] > row["S at 8 bit"] >= 0 for row in report.modules)
    assert sum(row[f"S at {row['bits']} bit"] for row in report.modules) <= sum(
        row["S at 4 bit"] for row in report.modules
    )


def read_by(model: Salmonn, linear: nn.Linear, examples: Sequence[Example]) -> torch.Tensor:
    """Mean x x^T over what the layer reads in whole forward passes, padding left out."""
    seen = Hessian(linear.in_features)
    read: list[torch.Tensor] = []
    handle = linear.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    for start in range(0, len(examples), 2):
        inputs = model.prepare_training(examples[start : start + 2])
        model.score(inputs)
        rows = read.pop()
        seen.add(rows[inputs.mask.bool()] if rows.shape[:2] == inputs.mask.shape else rows.flatten(0, -2))
    handle.remove()
    return seen.matrix


@pytest.mark.parametrize("name", ["llm.model.layers.0.mlp.up_proj", "speech_encoder.layers.0.fc1"])
def test_measuring_leaves_the_model_as_it_was(small_model: SmallModel, context: Context, name: str) -> None:
    """A sensitivity is the divergence that the quantised layer really causes, in the LLM or before it."""
    model = small_model("llama")
    (name,) = [
        full for full, _ in model.named_modules() if full.replace(".base_model.model.", ".", 1) == name
    ]
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = {name: (linear, [SCHEME, Scheme(8, 32)])}
    found = choose(model, layers, Measuring(2.0, 2, 2, True, 0.01), context)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    inputs = model.eval().prepare_training(context.calibration[:2])
    assert inputs.labels is not None
    kept = inputs.labels[:, 1:] != -100
    with torch.no_grad():
        usual = model.score(inputs)[:, :-1][kept].softmax(-1).double()
        solved = quantize_gptq(linear.weight, read_by(model, linear, context.calibration), SCHEME)
        linear.weight.copy_(dequantize(solved.codes, solved.grid, SCHEME))
        now = model.score(model.prepare_training(context.calibration[:2]))[:, :-1][kept].softmax(-1).double()
    expected = (usual * (usual / now).log()).sum(-1).mean()
    assert found.sensitivity[name][2] == pytest.approx(float(expected), rel=1e-3)
    assert found.bits == {name: 2}


def test_a_broken_layer_is_no_cheap_one() -> None:
    """NaN is not the least divergence of all; what rounding leaves below 0 is."""
    usual = [torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1)]
    assert divergence(usual, [lambda: usual[0] + 1e-6]) == 0
    assert divergence(usual, [lambda: usual[0].flip(1)]) > 0
    assert math.isnan(divergence(usual, [lambda: usual[0] * math.nan]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": "auto"}, "bits: auto needs average_bits between 2 and 8, .* found None"),
        ({"bits": 4, "average_bits": 3.5}, "average_bits does nothing beside bits=4; give bits: auto"),
        ({"bits": "auto", "average_bits": 1.5}, "between 2 and 8, .* found 1.5"),
        ({"bits": "auto", "average_bits": 5, "bit_choices": [3, 4]}, "between 3 and 4, .* found 5"),
        ({"bits": "auto", "average_bits": 3, "bit_choices": [3, 3]}, "names a width twice: 3, 3"),
        (
            {"bits": "auto", "average_bits": 3, "progressive": True, "group_size": -1},
            "progressive scales need",
        ),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Gptq.model_validate(settings)


def test_progressive_scales_where_the_width_has_them(small_model: SmallModel, context: Context) -> None:
    model = small_model("llama")
    Gptq.model_validate(AUTO | {"progressive": True, "bit_choices": [4, 8], "average_bits": 6}).apply(
        model, context
    )
    layers = layers_of(model).values()
    assert {(layer.scheme.bits, layer.scheme.progressive) for layer in layers} == {(4, True), (8, False)}


def test_nothing_left_to_choose(small_model: SmallModel, context: Context) -> None:
    settings = AUTO | {"overrides": [{"match": "*", "bits": 4}]}
    with pytest.raises(PassError, match="overrides settle every layer"):
        Gptq.model_validate(settings).apply(small_model(), context)


def test_the_prediction_has_the_size_and_says_what_it_assumes(
    quantised: tuple[Salmonn, PassReport], context: Context, parity: Path, tmp_path: Path
) -> None:
    model, _ = quantised
    sketch = Sketch(outline_model(parity / "llama" / "config.yaml").model, context.calibration)
    settings = AUTO | {"overrides": [{"match": "*.layers.0.mlp.down_proj", "bits": 8, "group_size": -1}]}
    Gptq.model_validate(settings).predict(sketch)
    saved = (store.save(model, tmp_path / "model") / store.WEIGHTS).stat().st_size
    assert file_bytes(sketch.layers()) == pytest.approx(saved, rel=0.02)
    assert "data decides the bits of each layer; 3.5 in the mean are assumed" in sketch.notes


def test_a_rehearsal_needs_no_measurement(small_model: SmallModel) -> None:
    short = Gptq.model_validate(AUTO).rehearsed(small_model())
    assert isinstance(short, Gptq) and (short.bits, short.average_bits) == (2, None)
