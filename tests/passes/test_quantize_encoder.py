from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.quantize_encoder import QuantizeEncoder
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.smoothing import fold_factors, smoothing_factors
from audiolm_compress.salmonn.beats import Beats
from audiolm_compress.salmonn.folds import folds
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[..., Salmonn]
PARTS = ("speech_encoder", "audio_encoder", "connector")


def encoded(model: Salmonn, clips: list[Tensor]) -> Tensor:
    with torch.inference_mode():
        return model.encode_audio(clips).embeddings


def make_outliers(model: Salmonn) -> None:
    """What large trained models have and random ones lack: a few loud channels behind each LayerNorm."""
    for part in PARTS:
        for name, module in model.get_submodule(part).named_modules():
            if isinstance(module, nn.LayerNorm):
                generator = torch.Generator().manual_seed(len(name))
                loud = torch.randperm(len(module.weight), generator=generator)[:2]
                module.weight.data[loud] *= 40


@torch.no_grad()
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_folding_leaves_the_function_unchanged(
    small_model: Loader, clips: list[Tensor], variant: str, pre_norm: bool
) -> None:
    """All folds at once, with factors of 1/8 to 8: the encoders and the connector answer as before."""
    model = small_model(variant).eval()
    if pre_norm:
        assert model.audio_encoder is not None
        config = dataclasses.replace(model.audio_encoder.config, layer_norm_first=True, deep_norm=False)
        beats = Beats(config).eval()
        beats.load_state_dict(model.audio_encoder.state_dict())
        model.audio_encoder = beats
    before = encoded(model, clips)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = folds(model)
    generator = torch.Generator().manual_seed(0)
    for place in places:
        readers: list[Any] = [model.get_submodule(name) for name in place.readers]
        makers: list[Any] = [model.get_submodule(name) for name in place.makers]
        factors = torch.randint(-3, 4, (readers[0].in_features,), generator=generator).float().exp2()
        fold_factors(factors, makers, readers)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert len(changed) > 20
    torch.testing.assert_close(encoded(model, clips), before, rtol=1e-4, atol=1e-5)
    read = {name for place in places for name in place.readers}
    assert ("audio_encoder.encoder.layers.0.fc1" in read) == pre_norm


def test_factors_are_those_of_the_paper_up_to_powers_of_two() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, weights = torch.rand(64, generator=generator) * 30, torch.rand(64, generator=generator)
    exact = inputs**0.7 / weights**0.3
    exact /= exact.median()
    factors = smoothing_factors(inputs, weights, 0.7)
    assert torch.equal(factors.log2(), factors.log2().round())
    assert float((factors / exact).log2().abs().max()) < 0.51
    inputs[3], weights[5] = 0, 0
    assert (smoothing_factors(inputs, weights, 0.7)[[3, 5]] == 1).all()
    assert torch.equal(smoothing_factors(torch.zeros(4), torch.ones(4), 0.5), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layer_of_the_encoders_is_replaced(
    small_model: Loader, clips: list[Tensor], context: Context, dtype: torch.dtype
) -> None:
    model = small_model()
    model.cast(dtype, PARTS)
    before = encoded(model, clips).float()
    report = QuantizeEncoder().apply(model, context)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Int8Linear)}
    left = [
        name
        for part in PARTS
        for name, m in model.get_submodule(part).named_modules()
        if type(m) is nn.Linear
    ]
    assert set(model.replaced) == set(layers) == {row["name"] for row in report.modules}
    assert {name.partition(".")[0] for name in layers} == set(PARTS)
    assert left
    assert all(name.endswith("grep_linear") for name in left)
    names = ", ".join(f"audio_encoder.{name}" for name in left)
    assert f"{len(left)} layers of fewer than 16 outputs left alone: {names}" in report.notes
    assert all(layer.dtype == dtype for layer in layers.values())
    assert all(0 < row["error"] < 0.005 for row in report.modules)
    assert report.figures["saved_bytes"] > 0
    assert (encoded(model, clips).float() - before).norm() < 0.05 * before.norm()


def test_smoothing_lowers_the_error_where_it_is_kept(
    small_model: Loader, clips: list[Tensor], context: Context
) -> None:
    errors = {}
    for alpha in (0.0, 0.5):
        model = small_model()
        make_outliers(model)
        before = encoded(model, clips)
        report = QuantizeEncoder(smoothing=alpha).apply(model, context)
        errors[alpha] = float((encoded(model, clips) - before).norm() / before.norm())
        assert (report.figures["smoothed_layers"] > 0) == (alpha > 0)
    smoothed = [row for row in report.modules if row["smoothed"]]
    assert {row["name"].rpartition(".")[2] for row in smoothed} >= {"q_proj", "k_proj", "fc1"}
    assert sum(row["error"] for row in smoothed) < 0.5 * sum(row["plain_error"] for row in smoothed)
    # Factors are powers of two, so dividing the outputs of a value projection costs it nothing.
    rest = [row for row in report.modules if not row["smoothed"]]
    assert rest
    assert all(row["error"] == pytest.approx(row["plain_error"], rel=1e-6) for row in rest)
    assert errors[0.5] < errors[0.0]
    assert any("a non-linearity" in note for note in report.notes)


def test_parts_and_patterns(small_model: Loader, context: Context) -> None:
    model = small_model()
    entry = QuantizeEncoder(parts=("speech_encoder",), skip=("*.fc2", "*.0.self_attn.v_proj"))
    report = entry.apply(model, context)
    assert all(name.startswith("speech_encoder.") for name in model.replaced)
    assert not any(name.endswith("fc2") for name in model.replaced)
    assert any("layers skipped" in note and "fc2" in note for note in report.notes)
    with pytest.raises(PassError, match="speech_encoder has no linear layer left"):
        QuantizeEncoder(parts=("speech_encoder",), skip=("*.fc1",)).apply(
            _all(small_model(), context), context
        )


def test_a_part_without_linear_layers_is_passed_over_and_named(small_model: Loader, context: Context) -> None:
    model = small_model()
    QuantizeEncoder(parts=("speech_encoder",)).apply(model, context)
    report = QuantizeEncoder().apply(model, context)
    assert {row["name"].partition(".")[0] for row in report.modules} == {"audio_encoder", "connector"}
    assert "speech_encoder passed over: it has no linear layer left to quantise" in report.notes


def _all(model: Salmonn, context: Context) -> Salmonn:
    QuantizeEncoder().apply(model, context)
    return model


def test_refusals_change_nothing(small_model: Loader, context: Context) -> None:
    model = small_model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PassError, match=r"skip '\*\.fc3' matches no layer"):
        QuantizeEncoder(skip=("*.fc3",)).apply(model, context)
    with pytest.raises(PassError, match="every layer is skipped"):
        QuantizeEncoder(skip=("*",)).apply(model, context)
    with pytest.raises(PassError, match="no calibration clips"):
        QuantizeEncoder().apply(model, dataclasses.replace(context, calibration=[]))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(PassError, match="no linear layer is left"):
        QuantizeEncoder().apply(_all(model, context), context)
    model = small_model()
    model.audio_encoder = None
    with pytest.raises(PassError, match="the model has no audio_encoder"):
        QuantizeEncoder(parts=("audio_encoder",)).apply(model, context)
