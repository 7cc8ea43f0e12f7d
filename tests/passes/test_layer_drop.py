from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.calibration_loss import calibration_loss
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.layer_drop import LayerDrop, block_influence, evenly_spaced
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[..., Salmonn]


def config_depth(model: Salmonn, part: str) -> int:
    if part == "llm":
        return model.causal_lm.config.num_hidden_layers
    return getattr(model, part).config.encoder_layers


def skipping(model: Salmonn, part: str, dropped: set[int]) -> list[Any]:
    """Hooks after which the dropped layers give back their input: an independent way to be without them."""
    return [
        layer.register_forward_hook(lambda _, args, output: args[0])
        for index, layer in enumerate(model.layers(part))
        if index in dropped
    ]


def adapters(model: Salmonn) -> int:
    return sum("lora_A" in name for name in model.state_dict())


def few(context: Context, count: int) -> Context:
    return dataclasses.replace(context, calibration=context.calibration[:count])


@pytest.mark.parametrize("variant", ["gemma", "llama"])
@pytest.mark.parametrize(
    ("part", "kept"), [("speech_encoder", [0, 2]), ("audio_encoder", [1, 2]), ("llm", [2])]
)
def test_kept_layers_compute_as_if_the_others_were_skipped(
    small_model: Loader, clips: list[torch.Tensor], tmp_path: Path, variant: str, part: str, kept: list[int]
) -> None:
    """Weights, BEATs' residual scale, Gemma's window of each layer, LoRA; also after saving and loading."""
    model, whole = small_model(variant), small_model(variant)
    layers = [model.layers(part)[index] for index in kept]
    model.keep_layers(part, kept)
    assert list(model.layers(part)) == layers
    assert [layer.self_attn.layer_idx for layer in model.layers("llm")] == list(
        range(len(model.layers("llm")))
    )
    assert config_depth(model, part) == len(kept)
    skipping(whole, part, set(range(3)) - set(kept))
    loaded = load_model(store.save(model, tmp_path / "model"))
    with torch.inference_mode():
        expected = whole.score(whole.prepare(clips))
        assert torch.equal(model.score(model.prepare(clips)), expected)
        assert torch.equal(loaded.score(loaded.prepare(clips)), expected)


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_generation_uses_the_cache_of_the_new_positions(
    small_model: Loader, clips: list[torch.Tensor], tmp_path: Path, variant: str
) -> None:
    """With a cache, without one, and loaded: the same texts; Gemma's sliding layers stay what they were."""
    model = small_model(variant)
    kinds = getattr(model.causal_lm.config, "layer_types", None)
    model.keep_layers("llm", [1, 2])
    if variant == "gemma":
        assert kinds == ["sliding_attention", "full_attention", "sliding_attention"]
        assert model.causal_lm.config.layer_types == kinds[1:]
    inputs = model.prepare(clips)
    settings = model.decode_settings("asr", num_beams=1, max_new_tokens=6)
    ids = model.generate_ids(inputs, settings)
    loaded = load_model(store.save(model, tmp_path / "model"))
    assert torch.equal(loaded.generate_ids(inputs, settings), ids)
    config = GenerationConfig(use_cache=False, max_new_tokens=6, eos_token_id=[-1], pad_token_id=0)
    uncached = model.llm.generate(
        inputs_embeds=inputs.embeds, attention_mask=inputs.mask, generation_config=config
    )
    for row, whole in zip(ids, uncached, strict=True):
        said = [token for token in row.tolist() if token != model.tokenizer.pad_token_id]
        assert said == whole.tolist()[: len(said)]


def test_qwen(small_model: Loader, clips: list[torch.Tensor], tmp_path: Path) -> None:
    """Per-layer attention kinds that do not follow from the depth survive."""
    torch.manual_seed(0)
    model = small_model("llama")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(
        vocab_size=330,
        num_hidden_layers=4,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=2,
        **sizes,
    )
    model.llm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model.keep_layers("llm", [0, 3])
    assert model.causal_lm.config.layer_types == ["full_attention", "sliding_attention"]
    loaded = load_model(store.save(model, tmp_path / "model"))
    with torch.inference_mode():
        assert torch.equal(loaded.score(loaded.prepare(clips)), model.score(model.prepare(clips)))
    assert loaded.generate(clips) == model.generate(clips)


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
def test_quantised_and_adapted_layers_go_with_their_layer(
    small_model: Loader, clips: list[torch.Tensor], context: Context, tmp_path: Path
) -> None:
    model = small_model("gemma")
    before = adapters(model)
    Gptq(bits=4, group_size=32, parts=("llm", "speech_encoder")).apply(model, context)
    model.keep_layers("llm", [1, 2])
    model.keep_layers("speech_encoder", [0, 2])
    names = dict(model.named_modules())
    assert all(names[name].spec() == spec for name, spec in model.replaced.items())
    assert {name for name in model.replaced if ".layers.2." in name} == set()
    loaded = load_model(store.save(model, tmp_path / "model"))
    assert 3 * adapters(loaded) == 2 * before > 0
    with torch.inference_mode():
        assert torch.equal(loaded.score(loaded.prepare(clips)), model.score(model.prepare(clips)))


def test_evenly_spaced() -> None:
    assert [evenly_spaced(32, 24)[i] for i in (0, -1)] == [0, 31]
    for layers in range(2, 40):
        for keep in range(2, layers):
            kept = evenly_spaced(layers, keep)
            gaps = {later - earlier for earlier, later in pairwise(kept)}
            assert (kept[0], kept[-1], len(kept)) == (0, layers - 1, keep)
            assert max(gaps) - min(gaps) <= 1
            assert min(gaps) >= 1


def test_block_influence_is_one_minus_the_mean_cosine() -> None:
    """A layer that scales has 0, one that turns to the opposite 2; positions under mask 0 do not count."""

    class Turn(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    class Partly(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat((x[:, :1], -x[:, 1:]), dim=1)

    layers = [Turn(3.0), Partly(), Turn(-0.5)]
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    x = torch.randn(1, 5, 8)
    influence = block_influence(layers, lambda _: layers[2](layers[1](layers[0](x))), [mask])
    assert influence == pytest.approx([0.0, 4 / 3, 2.0], abs=1e-6)


def test_a_layer_that_does_nothing_has_no_influence(small_model: Loader, context: Context) -> None:
    context, model = few(context, 2), small_model("llama")
    for part in ("speech_encoder", "llm"):
        layer = model.layers(part)[1]
        layer.load_state_dict(_silenced(layer))
        report = LayerDrop(part=part, method="block_influence", keep=2).apply(model, context)
        assert report.modules[0]["layer"] == 1
        assert report.modules[0]["influence"] == pytest.approx(0.0, abs=1e-6)
        assert report.figures["loss_after"] == pytest.approx(report.figures["loss_before"], abs=1e-5)


def _silenced(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Weights with which a pre-norm layer adds nothing."""
    last = ("out_proj", "fc2", "o_proj", "down_proj", "lora_B")
    return {
        name: torch.zeros_like(value) if any(part in name for part in last) else value
        for name, value in layer.state_dict().items()
    }


@pytest.mark.parametrize("part", ["speech_encoder", "llm"])
def test_greedy_is_brute_force_step_by_step(small_model: Loader, context: Context, part: str) -> None:
    context = few(context, 2)
    report = LayerDrop(part=part, method="greedy", keep=1, batch_size=1).apply(small_model("llama"), context)
    dropped: list[int] = []
    for row in report.modules:
        losses = {}
        for layer in set(range(3)) - set(dropped):
            model = small_model("llama")
            model.keep_layers(part, sorted(set(range(3)) - {*dropped, layer}))
            losses[layer] = calibration_loss(model, context.calibration, batch_size=1)
        dropped.append(min(losses, key=lambda layer: losses[layer]))
        assert row["layer"] == dropped[-1]
        assert row["loss"] == pytest.approx(losses[dropped[-1]], abs=1e-5)
    assert report.figures["loss_after"] == report.modules[-1]["loss"]
    whole = calibration_loss(small_model("llama"), context.calibration, batch_size=1)
    assert report.figures["loss_before"] == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(
    ("part", "choice"),
    [
        ("speech_encoder", {"method": "even", "keep": 2}),
        ("audio_encoder", {"method": "indices", "drop": [2, 0]}),
        ("llm", {"method": "block_influence", "keep": 1}),
    ],
)
def test_report(small_model: Loader, context: Context, part: str, choice: dict[str, Any]) -> None:
    """The loss after each step is that of the model with those layers gone, and the bytes are right."""
    context = few(context, 2)
    model = small_model("llama")
    before = sum(model.weight_bytes().values())
    report = LayerDrop(part=part, **choice).apply(model, context)
    order = [row["layer"] for row in report.modules]
    assert order == {"even": [1], "indices": [2, 0]}.get(choice["method"], order)
    for count, row in enumerate(report.modules, 1):
        other = small_model("llama")
        other.keep_layers(part, [layer for layer in range(3) if layer not in order[:count]])
        assert row["loss"] == pytest.approx(calibration_loss(other, context.calibration), abs=1e-5)
    assert report.figures["loss_after"] == pytest.approx(
        calibration_loss(model, context.calibration), abs=1e-5
    )
    assert report.figures["saved_bytes"] == before - sum(model.weight_bytes().values()) > 0
    assert report.figures["layers_after"] == len(model.layers(part)) == 3 - len(order)


def test_without_calibration(small_model: Loader, context: Context) -> None:
    empty = few(context, 0)
    report = LayerDrop(part="llm", method="even", keep=2).apply(small_model(), empty)
    assert report.changed
    assert report.notes == ["no calibration clips, so the loss is not known"]
    for method in ("greedy", "block_influence"):
        with pytest.raises(PassError, match=f"{method} needs calibration"):
            LayerDrop(part="llm", method=method, keep=2).apply(small_model(), empty)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"method": "even", "keep": 3}, r"keep=3, but llm has 3 layers"),
        ({"method": "indices", "drop": [3]}, r"layers 0 to 2; there is no \[3\]"),
        ({"method": "indices", "drop": [-1]}, r"there is no \[-1\]"),
        ({"method": "indices", "drop": [1, 1]}, "twice"),
        ({"method": "indices", "drop": [0, 1, 2]}, "all 3 layers"),
    ],
)
def test_impossible_settings_change_nothing(
    small_model: Loader, context: Context, choice: dict[str, Any], message: str
) -> None:
    model = small_model()
    names = list(model.state_dict())
    with pytest.raises(PassError, match=message):
        LayerDrop(part="llm", **choice).apply(model, context)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    "choice",
    [
        {"method": "even"},
        {"method": "even", "keep": 0},
        {"method": "indices", "keep": 2},
        {"method": "indices", "keep": 2, "drop": [0]},
        {"method": "greedy", "drop": [0]},
    ],
)
def test_contradictions_are_refused_on_reading(choice: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LayerDrop(part="llm", **choice)


def test_parts_without_layers_to_drop(small_model: Loader, context: Context) -> None:
    model = small_model()
    for part, kept in (("connector", [0]), ("llm", []), ("llm", [3]), ("llm", [1, 0]), ("ears", [0])):
        with pytest.raises(PassError):
            model.keep_layers(part, kept)
    model.audio_encoder = None
    with pytest.raises(PassError, match="no audio_encoder"):
        LayerDrop(part="audio_encoder", method="even", keep=2).apply(model, context)
