"""Recovery by adapters: nearer to the teacher, folded where it can be, kept where it must be."""

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
from audiolm_compress.passes import Gptq, LayerDrop, LowRank, MergeLora, PruneWidth, QuantizeEncoder
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.lora_recovery import LoraRecovery
from audiolm_compress.passes.recovery_settings import Losses
from audiolm_compress.planning.layers import file_bytes
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization import QuantizedLinear
from audiolm_compress.quantization.adapted import AdaptedLinear
from audiolm_compress.quantization.blocks import target_linears
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.twin import narrow_twin

pytestmark = pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # small models are float32

SHORT: dict[str, Any] = {"epochs": None, "steps": 2, "rank": 2}
CONNECTOR = Losses(speech=0, audio=0, connector=1, logits=0, text=0)


@pytest.fixture
def taught(small_model: Callable[..., Salmonn], context: Context) -> Context:
    """Three short clips to learn from, and the small model as teacher."""
    short = [replace(clip, waveform=clip.waveform[:24000]) for clip in context.calibration[:3]]
    return replace(context, training=short, reference=lambda: small_model())


def perturbed(model: Salmonn, part: str, share: float = 0.3) -> None:
    """Add noise to the linear layers of a part, relative to their weights."""
    generator = torch.Generator().manual_seed(5)
    for linear in target_linears(model.get_submodule(part)).values():
        noise = torch.randn(linear.weight.shape, generator=generator)
        linear.weight.data.add_(share * linear.weight.std() * noise)


def logits(model: Salmonn, clips: list[torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model.score(model.prepare(clips))


@pytest.mark.parametrize("kind", [{}, {"use_rslora": True, "use_dora": True}], ids=str)
def test_a_damaged_part_comes_nearer_to_the_teacher(
    small_model: Callable[..., Salmonn], taught: Context, clips: list[torch.Tensor], kind: dict[str, bool]
) -> None:
    model = small_model()
    perturbed(model, "connector")
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    entry = LoraRecovery(
        parts=("connector",), rank=8, epochs=None, steps=25, learning_rate=3e-3, losses=CONNECTOR, **kind
    )
    report = entry.apply(model, taught)
    assert report.figures["connector_after"] < 0.7 * report.figures["connector_before"]
    assert report.figures["kept_adapters"] == 0
    assert report.figures["saved_bytes"] == 0
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert report.modules == [{"part": "connector", "parameters": report.figures["trained_parameters"]}]
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("use_dora", [False, True])
def test_folded_and_kept_compute_the_same(
    small_model: Callable[..., Salmonn], taught: Context, clips: list[torch.Tensor], use_dora: bool
) -> None:
    """The same training, merged and not; merge_lora then makes one of the other."""
    models = []
    for merge in ("always", "never"):
        model = small_model()
        taught.rng.manual_seed(7)
        LoraRecovery(parts=("connector",), merge=merge, use_dora=use_dora, **SHORT).apply(model, taught)  # type: ignore[arg-type]
        models.append(model)
    merged, kept = models
    assert not merged.adapted()
    assert len(kept.adapted()) > 0
    torch.testing.assert_close(logits(kept, clips), logits(merged, clips), rtol=1e-4, atol=1e-4)
    untouched = logits(small_model(), clips)
    assert (logits(kept, clips) - untouched).abs().max() > 1e-3
    assert MergeLora().apply(kept, taught).figures["merged"] > 0
    assert not kept.adapted()
    assert kept.replaced == {}
    for name, tensor in merged.connector.state_dict().items():
        torch.testing.assert_close(kept.connector.state_dict()[name], tensor)


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters_stay_beside_packed_layers(
    small_model: Callable[..., Salmonn],
    taught: Context,
    clips: list[torch.Tensor],
    tmp_path: Path,
    use_dora: bool,
) -> None:
    """QLoRA on four bit: integers stay, the folder holds the adapters, and they survive what comes after."""
    model = small_model("llama")
    MergeLora().apply(model, taught)
    Gptq(bits=4, group_size=32).apply(model, taught)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    before = {name: layer.stored()["qweight"].clone() for name, layer in layers.items()}
    entry = LoraRecovery(parts=("llm",), use_dora=use_dora, targets=("*_proj",), **SHORT)
    predicted = Sketch(model_copy(model, tmp_path), taught.calibration)
    entry.predict(predicted)
    report = entry.apply(model, taught)
    assert report.figures["kept_adapters"] == len(layers)
    assert report.figures["saved_bytes"] < 0
    assert any("stay beside their layers" in note for note in report.notes)
    assert set(model.adapted()) == set(layers)
    for name, layer in layers.items():
        assert torch.equal(layer.stored()["qweight"], before[name])
    saved = store.save(model, tmp_path / "model")
    assert file_bytes(predicted.layers()) == pytest.approx((saved / store.WEIGHTS).stat().st_size, rel=0.01)
    loaded = load_model(saved)
    assert loaded.replaced == model.replaced
    assert torch.equal(logits(loaded, clips), logits(model, clips))
    assert loaded.generate(clips, num_beams=1) == model.generate(clips, num_beams=1)
    done = MergeLora().apply(loaded, taught)
    assert not done.changed
    assert any("adapters stay" in note for note in done.notes)
    LayerDrop(part="llm", keep=1, loss_clips=2).apply(model, taught)
    again = load_model(store.save(model, tmp_path / "dropped"))
    assert torch.equal(logits(again, clips), logits(model, clips))
    twin = narrow_twin(again)
    assert set(twin.adapted()) == set(again.adapted())


def model_copy(model: Salmonn, folder: Path) -> Salmonn:
    return load_model(store.save(model, folder / "copy"))


def test_kept_adapters_go_on_beside_layers_that_are_packed_later(
    small_model: Callable[..., Salmonn], taught: Context, clips: list[torch.Tensor], tmp_path: Path
) -> None:
    """What packs or factorises finds the plain layer beneath; what cuts widths says why it cannot."""
    model = small_model()
    MergeLora().apply(model, taught)
    LoraRecovery(parts=("speech_encoder", "llm"), merge="never", **SHORT).apply(model, taught)
    count = len(model.adapted())
    with pytest.raises(PassError, match=r"prune_width: .* AdaptedLinear"):
        PruneWidth(part="speech_encoder", ffn=0.5).apply(model, taught)
    LowRank(parts=("speech_encoder",), budget=0.7, loss_clips=2, skip=("*.fc1",)).apply(model, taught)
    QuantizeEncoder(parts=("speech_encoder",)).apply(model, taught)
    Gptq(bits=4, group_size=32).apply(model, taught)
    assert len(model.adapted()) == count
    assert all(isinstance(layer, AdaptedLinear) for layer in model.adapted().values())
    assert not any(layer.foldable for layer in model.adapted().values())
    loaded = load_model(store.save(model, tmp_path / "model"))
    assert torch.equal(logits(loaded, clips), logits(model, clips))


def test_the_connector_is_trained_along(small_model: Callable[..., Salmonn], taught: Context) -> None:
    model = small_model()
    perturbed(model, "connector")
    before = {name: tensor.clone() for name, tensor in model.connector.state_dict().items()}
    entry = {**SHORT, "learning_rate": 1e-5}
    report = LoraRecovery(parts=("speech_encoder",), train_connector=True, **entry).apply(model, taught)
    assert {row["part"] for row in report.modules} == {"speech_encoder", "connector"}
    assert not torch.equal(before["projection.weight"], model.connector.projection.weight)
    assert not model.adapted()


def test_layers_that_learn_nothing_are_left_and_named(
    small_model: Callable[..., Salmonn], taught: Context
) -> None:
    """Only Whisper's states are compared, so BEATs gets no gradient."""
    model = small_model()
    perturbed(model, "speech_encoder")
    speech = Losses(speech=1, audio=0, connector=0, logits=0, text=0)
    parts = ("speech_encoder", "audio_encoder")
    report = LoraRecovery(parts=parts, merge="never", losses=speech, **SHORT).apply(model, taught)  # type: ignore[arg-type]
    assert all(name.startswith("speech_encoder.") for name in model.adapted())
    assert report.figures["adapters"] == report.figures["kept_adapters"] == len(model.adapted()) > 0
    assert any("no loss reaches them: audio_encoder." in note for note in report.notes)


def test_sixteen_bit_weights_stay_so(small_model: Callable[..., Salmonn], taught: Context) -> None:
    for merge in ("auto", "never"):
        model = small_model()
        perturbed(model, "connector")
        model.cast(torch.bfloat16, ["connector"])
        entry = SHORT | {"merge": merge, "losses": CONNECTOR, "learning_rate": 3e-3}
        report = LoraRecovery(parts=("connector",), **entry).apply(model, taught)
        assert report.changed
        assert any("before adapters are rounded to bfloat16" in note for note in report.notes)
        assert {parameter.dtype for parameter in model.connector.parameters()} == {torch.bfloat16}


def test_what_is_impossible_is_said(small_model: Callable[..., Salmonn], taught: Context) -> None:
    model = small_model()
    with pytest.raises(PassError, match="unmerged LoRA; put merge_lora before"):
        LoraRecovery(**SHORT).apply(model, taught)
    with pytest.raises(PassError, match=r"'\*.nothing' matches no linear layer"):
        LoraRecovery(parts=("connector",), targets=("*.nothing",), **SHORT).apply(model, taught)
    with pytest.raises(PassError, match="rank 4096 would be as large"):
        LoraRecovery(parts=("connector",), rank=4096).apply(model, taught)
    with pytest.raises(ValidationError, match="take it from parts"):
        LoraRecovery(parts=("connector",), train_connector=True)
    perturbed(model, "connector")
    QuantizeEncoder(parts=("connector",)).apply(model, taught)
    with pytest.raises(PassError, match=r"merge is always, but .* packed"):
        LoraRecovery(parts=("connector",), merge="always", **SHORT).apply(model, taught)
    LoraRecovery(parts=("connector",), losses=CONNECTOR, **SHORT).apply(model, taught)
    with pytest.raises(PassError, match="adapted already"):
        LoraRecovery(parts=("connector",), **SHORT).apply(model, taught)
    model.audio_encoder = None
    with pytest.raises(PassError, match="the model has no audio_encoder"):
        LoraRecovery(parts=("audio_encoder",), **SHORT).apply(model, taught)


def test_a_failed_training_leaves_the_layers(small_model: Callable[..., Salmonn], context: Context) -> None:
    """The fixture's teacher cannot be had."""
    model = small_model()
    modules = [type(module) for module in model.modules()]
    with pytest.raises(AssertionError, match="no teacher"):
        LoraRecovery(parts=("connector",), losses=CONNECTOR, **SHORT).apply(model, context)
    assert [type(module) for module in model.modules()] == modules
    assert all(isinstance(m, nn.Linear) for m in target_linears(model.connector).values())
    assert not any(isinstance(m, PackedLinear) for m in model.connector.modules())
