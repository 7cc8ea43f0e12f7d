"""Training scales, biases and norms: nearer to the teacher with the integers that there were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes import Gptq, MergeLora, QuantizeEmbedding, QuantizeEncoder
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.recovery_settings import Losses
from audiolm_compress.passes.scale_recovery import ScaleRecovery
from audiolm_compress.quantization import Int8Linear
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

pytestmark = pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # small models are float32

SHORT: dict[str, Any] = {"epochs": None, "steps": 2}
CONNECTOR = Losses(speech=0, audio=0, connector=1, logits=0, text=0)


@pytest.fixture
def taught(small_model: Callable[..., Salmonn], context: Context) -> Context:
    """Three short clips to learn from, and the small model as teacher."""
    short = [replace(clip, waveform=clip.waveform[:24000]) for clip in context.calibration[:3]]
    return replace(context, training=short, reference=lambda: small_model())


def packed_layers(model: Salmonn) -> dict[str, PackedLinear[Any]]:
    return {name: m for name, m in model.named_modules() if isinstance(m, PackedLinear)}


def integers(model: Salmonn) -> dict[str, torch.Tensor]:
    """Everything of the saved form that is not floating."""
    state = model.state_dict().items()
    return {name: tensor.clone() for name, tensor in state if not tensor.is_floating_point()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_two_bit_layers_come_nearer_to_the_teacher(
    small_model: Callable[..., Salmonn], taught: Context
) -> None:
    model = small_model()
    Gptq(parts=("connector",), bits=2, group_size=16, progressive=False).apply(model, taught)
    before = integers(model)
    size = model.weight_bytes()
    entry = ScaleRecovery(
        parts=("connector",), epochs=None, steps=25, learning_rate=1e-2, norms=False, losses=CONNECTOR
    )
    report = entry.apply(model, taught)
    assert report.figures["connector_after"] < 0.9 * report.figures["connector_before"]
    assert equal(integers(model), before)
    assert model.weight_bytes() == size
    assert report.figures["trained_norms"] == 0
    assert report.figures["trained_parameters"] == (
        report.figures["trained_scales"] + report.figures["trained_biases"]
    )
    assert "no integer changed" in report.summary


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
def test_every_packed_form_is_trained_and_saved(
    small_model: Callable[..., Salmonn],
    taught: Context,
    clips: list[torch.Tensor],
    tmp_path: Path,
    dtype: torch.dtype,
) -> None:
    """Progressive int4, int8 with rounded inputs; the embedding's own scales stay, and that is said."""
    model = small_model("gemma")
    MergeLora().apply(model, taught)
    model.cast(dtype)
    QuantizeEncoder(parts=("speech_encoder",)).apply(model, taught)
    Gptq(parts=("llm",), bits=4, group_size=32, progressive=True).apply(model, taught)
    QuantizeEmbedding().apply(model, taught)
    before, types = integers(model), {name: t.dtype for name, t in model.state_dict().items()}
    scales = {name: layer.stored()["scales"].clone() for name, layer in packed_layers(model).items()}
    report = ScaleRecovery(
        parts=("speech_encoder", "llm"), learning_rate=1e-2, losses=Losses(speech=0, audio=0), **SHORT
    ).apply(model, taught)
    assert equal(integers(model), before)
    assert {name: t.dtype for name, t in model.state_dict().items()} == types
    after = packed_layers(model)
    assert after.keys() == scales.keys()
    assert any(isinstance(layer, Int8Linear) for layer in after.values())
    changed = [
        name for name, layer in after.items() if not torch.equal(layer.stored()["scales"], scales[name])
    ]
    assert len(changed) == len(after)
    assert any("embed_tokens, one a token, are not trained" in note for note in report.notes)
    loaded = load_model(store.save(model, tmp_path / "model"))
    with torch.inference_mode():
        assert torch.equal(loaded.score(loaded.prepare(clips)), model.score(model.prepare(clips)))
    assert loaded.generate(clips, num_beams=1) == model.generate(clips, num_beams=1)


def test_only_what_is_asked_for_changes(small_model: Callable[..., Salmonn], taught: Context) -> None:
    model = small_model()
    QuantizeEncoder(parts=("connector",)).apply(model, taught)
    for asked in ("scales", "biases", "norms"):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        others: dict[str, Any] = dict.fromkeys({"scales", "biases", "norms"} - {asked}, False)
        report = ScaleRecovery(parts=("connector",), losses=CONNECTOR, **others, **SHORT).apply(model, taught)
        modules = dict(model.named_modules())
        kinds = set()
        for name, tensor in model.state_dict().items():
            if not torch.equal(tensor, before[name]):
                owner, _, local = name.rpartition(".")
                norm = isinstance(modules[owner], nn.LayerNorm)
                kinds.add("norms" if norm else {"scales": "scales", "bias": "biases"}[local])
        assert kinds == {asked}
        assert report.figures[f"trained_{asked}"] == report.figures["trained_parameters"] > 0


def test_what_is_impossible_is_said(small_model: Callable[..., Salmonn], taught: Context) -> None:
    model = small_model()
    with pytest.raises(PassError, match="no linear layer of llm is packed; put this pass behind gptq"):
        ScaleRecovery(**SHORT).apply(model, taught)
    with pytest.raises(ValidationError, match="so nothing is trained"):
        ScaleRecovery(scales=False, biases=False, norms=False)
    model.audio_encoder = None
    with pytest.raises(PassError, match="the model has no audio_encoder"):
        ScaleRecovery(parts=("audio_encoder",), **SHORT).apply(model, taught)


def test_a_failed_training_leaves_the_model(small_model: Callable[..., Salmonn], context: Context) -> None:
    """The fixture's teacher cannot be had."""
    model = small_model()
    QuantizeEncoder(parts=("connector",)).apply(model, context)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(AssertionError, match="no teacher"):
        ScaleRecovery(parts=("connector",), losses=CONNECTOR, **SHORT).apply(model, context)
    assert equal(dict(model.state_dict()), before)
    assert packed_layers(model)
