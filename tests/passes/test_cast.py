"""Casting parts: the bytes it saves, and overflow found before anyone listens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.cast import Cast
from audiolm_compress.salmonn.model import Salmonn


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


def test_nothing_to_cast_is_said(small_model: Callable[..., Salmonn], context: Context) -> None:
    report = Cast(parts=("llm",), dtype="float32").apply(small_model(), context)
    assert not report.changed


def test_refusals(small_model: Callable[..., Salmonn], context: Context) -> None:
    with pytest.raises(PassError, match="no calibration clip"):
        Cast().apply(small_model(), dataclasses.replace(context, calibration=[]))
    with pytest.raises(ValidationError):
        Cast(parts=("encoder",))  # type: ignore[arg-type]
