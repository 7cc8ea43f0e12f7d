from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.gptq_llm import quantize_llm
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization import Int8Linear, QuantizedLinear, Scheme
from audiolm_compress.quantization.blocks import find_blocks
from audiolm_compress.quantization.layerwise import Options, quantize_blocks
from audiolm_compress.quantization.modules import module_bytes
from audiolm_compress.salmonn.outline import outline_model

SIZES = {
    "vocab_size": 90,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
CONFIGS = [LlamaConfig(**SIZES), Qwen2Config(**SIZES), Gemma2Config(**SIZES, sliding_window=8)]
GEMMA = CONFIGS[2]


def language_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config)).to(dtype).eval()


def tokens(count: int = 4, length: int = 40) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 90, (2, length), generator=generator) for _ in range(count)]


def quantized(model: nn.Module) -> dict[str, QuantizedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_plain_language_models(config: PretrainedConfig) -> None:
    """Every layer better than rounding; the model is smaller, near the old one, and still generates."""
    model, original = language_model(config, torch.bfloat16), language_model(config, torch.bfloat16)
    report = quantize_llm(model, tokens(), bits=4, group_size=32)
    assert report.changed
    assert len(report.modules) == len(quantized(model)) == 14
    assert all(row["error"] < row["rounding_error"] for row in report.modules)
    assert report.figures["bytes_after"] < 0.6 * report.figures["bytes_before"]
    ids = tokens()[0]
    with torch.no_grad():
        before, after = original(ids).logits.float(), model(ids).logits.float()
    assert (before - after).norm() < 0.3 * before.norm()
    assert model.generate(ids[:, :5], max_new_tokens=3, do_sample=False).shape == (2, 8)


def input_means(model: nn.Module, names: list[str], batches: list[Tensor]) -> dict[str, Tensor]:
    """Mean square of what each layer reads in whole forward passes of the model."""
    sums: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: sums[name].append(args[0].flatten(0, -2).square())
        )
        for name in names
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(rows).mean(0) for name, rows in sums.items()}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_each_layer_is_calibrated_on_what_the_quantised_ones_before_it_give(
    config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statistics of every stage equal those of a whole forward pass, sliding-window masks included."""
    from audiolm_compress.quantization import layerwise

    seen: list[Tensor] = []
    solve = layerwise.quantize_gptq

    def spy(weight: Tensor, hessian: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(hessian.diagonal().clone())
        return solve(weight, hessian, *args, **kwargs)

    monkeypatch.setattr(layerwise, "quantize_gptq", spy)
    model = language_model(config)
    quantize_llm(model, tokens(), bits=4, group_size=32)
    stages = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
    names = [f"model.layers.{block}.{stage}" for block in range(2) for stage in stages]
    expected = input_means(model, names, tokens())
    assert len(seen) == len(names)
    for name, diagonal in zip(names, seen, strict=True):
        torch.testing.assert_close(diagonal, expected[name], rtol=1e-3, atol=1e-6)


def test_padding_is_not_counted() -> None:
    whole, padded = language_model(GEMMA), language_model(GEMMA)
    quantize_llm(whole, tokens(), bits=3, group_size=32)
    batches = [
        {
            "input_ids": torch.cat([ids, torch.full((2, 9), 7)], 1),
            "attention_mask": torch.cat([torch.ones_like(ids), torch.zeros(2, 9, dtype=torch.int64)], 1),
        }
        for ids in tokens()
    ]
    quantize_llm(padded, batches, bits=3, group_size=32)
    layers = quantized(padded)
    for name, layer in quantized(whole).items():
        assert (layer.dense() - layers[name].dense()).norm() < 0.05 * layer.dense().norm()


def test_same_data_same_weights() -> None:
    one, other = language_model(GEMMA), language_model(GEMMA)
    for model in (one, other):
        quantize_llm(model, tokens(), bits=2, group_size=16, symmetric=False)
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_too_little_data_names_both_numbers_and_changes_nothing() -> None:
    model = language_model(GEMMA)
    with pytest.raises(PassError, match=r"down_proj has 96 inputs .* found 80"):
        quantize_llm(model, tokens(count=1))
    assert not quantized(model)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 5}, "bits=5"),
        ({"group_size": 0}, "group_size=0"),
    ],
)
def test_impossible_formats(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(PassError, match=message):
        quantize_llm(language_model(GEMMA), tokens(), **wrong)


def test_models_with_prepared_int8_layers_are_counted() -> None:
    model = language_model(GEMMA, torch.bfloat16)
    extra = Int8Linear.from_linear(nn.Linear(64, 48))
    model.extra = extra
    before = extra.prepare(), module_bytes(extra, set())
    report = quantize_llm(model, tokens(), bits=4, group_size=32)
    assert report.figures["saved_bytes"] > 0
    assert before == (extra.prepare(), 64 * 48 + 2 * 4 * 48)  # codes, scales and bias


def test_a_layer_that_reads_only_zeros_is_rounded_and_says_so() -> None:
    model = language_model(CONFIGS[0])
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.zero_()
    report = quantize_llm(model, tokens(), bits=4, group_size=32)
    (note,) = [note for note in report.notes if "zero" in note]
    assert note.startswith("model.layers.0.self_attn.o_proj: all its calibration inputs are zero")
    methods = {layer["name"]: layer["method"] for layer in report.modules}
    assert [name for name, method in methods.items() if method == "rounding"] == [note.split(":")[0]]
    assert not [note for note in report.notes if "damping" in note]


def test_no_batches_and_no_blocks() -> None:
    with pytest.raises(PassError, match="no calibration batches"):
        quantize_llm(language_model(GEMMA), [])
    with pytest.raises(PassError, match="no stack of blocks"):
        quantize_llm(nn.Sequential(nn.Linear(8, 8)), tokens())


def test_all_parts_with_overrides(small_model: Any, context: Context) -> None:
    model = small_model("llama")
    gptq = Gptq.model_validate(
        {
            "bits": 8,
            "group_size": -1,
            "parts": ["speech_encoder", "audio_encoder", "connector", "llm"],
            "overrides": [
                {"match": "llm.*.mlp.*", "bits": 4, "group_size": 32},
                {"match": "*.down_proj", "skip": True},
                {"match": "connector.*.output", "skip": True},
            ],
        }
    )
    report = gptq.apply(model, context)
    layers = quantized(model)
    assert {name.partition(".")[0] for name in layers} == {
        "speech_encoder",
        "audio_encoder",
        "connector",
        "llm",
    }
    assert not any(name.endswith("down_proj") for name in layers)
    assert {layer.scheme.bits for name, layer in layers.items() if ".mlp." in name} == {4}
    assert {layer.scheme.bits for name, layer in layers.items() if "self_attn" in name} == {8}
    assert any("skipped by overrides" in note for note in report.notes)
    gates = [name for name, _ in model.named_modules() if name.endswith("grep_linear")]
    assert gates
    assert f"{len(gates)} layers of fewer than 16 outputs left alone: {', '.join(gates)}" in report.notes
    assert set(model.replaced) == set(layers)


def test_progressive_scales_and_sixteen_bit_inputs(small_model: Any, context: Context) -> None:
    model = small_model("llama")
    settings = {
        "group_size": 32,
        "progressive": True,
        "prefill_activations": 16,
        "overrides": [{"match": "*.down_proj", "bits": 8, "group_size": -1}],
    }
    Gptq.model_validate(settings).apply(model, context)
    layers = quantized(model)
    assert all(layer.scheme.progressive != name.endswith("down_proj") for name, layer in layers.items())
    assert {layer.activations for layer in layers.values()} == {16}
    assert all(layer.outliers is None for layer in layers.values())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, ""),
        ({"symmetric": False}, "zero points"),
        ({"bits": 3}, "no fast kernel"),
        ({"bits": 8, "group_size": -1}, "too small to gain"),
    ],
)
def test_eight_bit_inputs_without_effect_are_noted(
    small_model: Any, context: Context, settings: dict[str, Any], reason: str
) -> None:
    model = small_model("llama").to(torch.bfloat16)
    report = Gptq.model_validate({"group_size": 32} | settings).apply(model, context)
    count = len(report.modules)
    notes = [note for note in report.notes if "prefill_activations" in note]
    assert len(notes) == bool(reason)
    assert all(f"no effect in {count} of {count} layers: " in note and reason in note for note in notes)


def test_outliers_are_the_inputs_of_largest_mean_square() -> None:
    config = LlamaConfig(**SIZES)
    model = language_model(config)
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight[[3, 50]] = 100.0
    blocks = find_blocks(model)
    batches = tokens()
    options = Options(lambda name: Scheme(4, 32), model.set_submodule, activations=8)
    quantize_blocks(
        blocks, lambda index: model(batches[index], use_cache=False), [None] * len(batches), options
    )
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.activations == 8
    assert {3, 50} <= set(layer.outliers.tolist())


def test_a_layer_that_is_never_called_keeps_the_bits_of_its_inputs() -> None:
    model = language_model(GEMMA)
    model.model.layers[0].mlp.idle = nn.Linear(64, 32)
    batches = tokens()
    options = Options(lambda name: Scheme(4, 32), model.set_submodule, activations=8)
    layers = quantize_blocks(
        find_blocks(model),
        lambda index: model(batches[index], use_cache=False),
        [None] * len(batches),
        options,
    )
    assert [layer.name for layer in layers if layer.method == "rounding"] == ["model.layers.0.mlp.idle"]
    assert {layer.activations for layer in quantized(model).values()} == {8}
    assert quantized(model)["model.layers.0.mlp.idle"].outliers is None


@pytest.mark.parametrize(
    ("bits", "cast", "expected"),
    [
        (4, False, "no fast kernel takes float32 activations"),
        (3, True, "no fast kernel on cpu for this format"),
        (4, True, ""),
    ],
)
def test_slow_kernels_are_foretold(parity: Path, bits: int, cast: bool, expected: str) -> None:
    """As the pass itself would warn; what only a wrong answer of this CPU could add is no slow kernel."""
    sketch = Sketch(outline_model(parity / "llama" / "config.yaml").model)
    if cast:
        sketch.model.cast(torch.bfloat16, ("llm",))
    Gptq.model_validate({"bits": bits, "group_size": 32}).predict(sketch)
    notes = [note for note in sketch.notes if "no fast kernel" in note]
    assert len(notes) == bool(expected)
    count = sum(spec["kind"] == "linear" for spec in sketch.model.replaced.values())
    assert all(note.startswith(f"{count} layers, {bits} bit") and expected in note for note in notes)


@pytest.mark.parametrize("wrong", [{"bits": 8}, {"symmetric": False}, {"group_size": -1}])
def test_progressive_scales_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="progressive scales need symmetric grids"):
        Gptq.model_validate({"progressive": True} | wrong)


def test_override_that_matches_nothing(small_model: Any, context: Context) -> None:
    with pytest.raises(PassError, match=r"'\*\.dwon_proj' matches no layer"):
        Gptq.model_validate({"overrides": [{"match": "*.dwon_proj", "bits": 8}]}).apply(
            small_model(), context
        )


def test_override_that_a_later_one_hides(small_model: Any, context: Context) -> None:
    wide, narrow = {"match": "*", "group_size": 16}, {"match": "*.down_proj", "bits": 8}
    with pytest.raises(PassError, match=r"'\*\.down_proj' does nothing, as later ones match all its layers"):
        Gptq.model_validate({"overrides": [narrow, wide]}).apply(small_model(), context)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "an override must change something"),
        ({"skip": False}, "an override must change something"),
        ({"skip": True, "bits": 8, "symmetric": False}, "cannot skip layers and set bits, symmetric"),
    ],
)
def test_overrides_without_a_meaning(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Gptq.model_validate({"overrides": [{"match": "*"} | settings]})
