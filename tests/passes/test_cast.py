"""Casting parts: the bytes it saves, and overflow found before anyone listens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.cast import Cast
from audiolm_compress.passes.drop_audio_encoder import DropAudioEncoder
from audiolm_compress.passes.quantize_embedding import QuantizeEmbedding
from audiolm_compress.planning.layers import layers_of
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization import QuantizedEmbedding, QuantizedLinear
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model


def test_bytes_of_the_parts_halve(small_model: Callable[..., Salmonn], context: Context) -> None:
    model = small_model()
    before = model.weight_bytes()
    report = Cast(parts=("speech_encoder", "audio_encoder")).apply(model, context)
    after = model.weight_bytes()
    assert after["speech_encoder"] * 2 == before["speech_encoder"]
    assert after["connector"] == before["connector"]
    assert report.figures["saved_bytes"] == sum(before.values()) - sum(after.values())


def test_overflow_is_found_and_named(small_model: Callable[..., Salmonn], context: Context) -> None:
    model = small_model()
    layer = model.speech_encoder.layers[1].fc1
    with torch.no_grad():
        layer.weight *= 1e5
        model.speech_encoder.layers[1].fc2.weight *= 1e-5
    with pytest.raises(PassError, match=r"float16 overflows .*speech_encoder\.layers\.1\.fc1.*use bfloat16"):
        Cast(parts=("speech_encoder",), dtype="float16").apply(model, context)


def test_a_model_that_was_broken_before_is_not_sent_to_the_type_it_is_in(
    small_model: Callable[..., Salmonn], context: Context
) -> None:
    model = small_model()
    with torch.no_grad():
        model.speech_encoder.layers[1].fc1.weight[0, 0] = torch.nan
    with pytest.raises(PassError, match=r"speech_encoder\.layers\.1\.fc1.* broken already"):
        Cast(parts=("speech_encoder",)).apply(model, context)


def test_nothing_to_cast_is_said(small_model: Callable[..., Salmonn], context: Context) -> None:
    report = Cast(parts=("llm",), dtype="float32").apply(small_model(), context)
    assert not report.changed


@pytest.mark.parametrize("parts", [None, ("llm",)])
def test_packed_layers_must_come_afterwards(
    small_model: Callable[..., Salmonn],
    clips: list[torch.Tensor],
    context: Context,
    parity: Path,
    parts: tuple[str, ...] | None,
) -> None:
    """In this order a cast would leave scales and what reads them in different types."""
    cast = Cast.model_validate({"parts": parts})
    model, sketch = small_model(), Sketch(outline_model(parity / "llama" / "config.yaml").model)
    QuantizeEmbedding().apply(model, context)
    QuantizeEmbedding().predict(sketch)
    before = model.state_dict()
    count = sum(isinstance(module, QuantizedLinear | QuantizedEmbedding) for module in model.modules())
    message = f"cast: {count} packed layers of llm are float32 and cannot be cast; put cast before the pass"
    with pytest.raises(PassError, match=message):
        cast.apply(model, context)
    with pytest.raises(PassError, match=message):
        cast.predict(sketch)
    assert all(before[name].dtype == tensor.dtype for name, tensor in model.state_dict().items())
    assert Cast(parts=("speech_encoder",)).apply(model, context).changed
    model = small_model()
    cast.apply(model, context)
    QuantizeEmbedding().apply(model, context)
    assert not cast.apply(model, context).changed
    assert len(model.generate(clips, num_beams=1, max_new_tokens=2)) == 2


def test_without_parts_all_that_exist_are_cast(
    small_model: Callable[..., Salmonn], context: Context, parity: Path
) -> None:
    model, sketch = small_model(), Sketch(outline_model(parity / "llama" / "config.yaml").model)
    for entry in (DropAudioEncoder(), Cast()):
        report = entry.apply(model, context)
        entry.predict(sketch)
    assert report.summary == "cast speech_encoder, connector, llm to bfloat16"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert layers_of(sketch.model) == layers_of(model)
    with pytest.raises(PassError, match="the model has no audio_encoder"):
        Cast(parts=("audio_encoder",)).apply(model, context)


def test_only_parts_that_change_are_named(small_model: Callable[..., Salmonn], context: Context) -> None:
    model = small_model()
    model.cast(torch.bfloat16, ("llm", "connector"))
    assert Cast().apply(model, context).summary == "cast speech_encoder, audio_encoder to bfloat16"


def test_refusals(small_model: Callable[..., Salmonn], context: Context) -> None:
    with pytest.raises(PassError, match="no calibration clip"):
        Cast().apply(small_model(), dataclasses.replace(context, calibration=[]))
    with pytest.raises(ValidationError):
        Cast(parts=("encoder",))  # type: ignore[arg-type]
