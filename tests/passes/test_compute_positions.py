"""Computed positions: those of transformers' Whisper, and no table that was trained is dropped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers.models.whisper.modeling_whisper import sinusoids as of_transformers

from audiolm_compress.errors import PassError
from audiolm_compress.passes import Cast, ComputePositions
from audiolm_compress.passes.base import Context
from audiolm_compress.quantization.sinusoids import Sinusoids, sinusoids
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[..., Salmonn]


def test_they_are_those_of_whisper() -> None:
    torch.testing.assert_close(sinusoids(torch.arange(1500), 384), of_transformers(1500, 384))


def test_states_stay_but_for_the_rounding_of_the_table(
    small_model: Loader, clips: list[torch.Tensor], context: Context
) -> None:
    model = small_model("llama")
    before, size = model.encode_speech(clips), model.weight_bytes()["speech_encoder"]
    report = ComputePositions().apply(model, context)
    table = 1500 * model.speech_encoder.config.d_model * 4
    assert size - model.weight_bytes()["speech_encoder"] == report.figures["saved_bytes"] == table
    torch.testing.assert_close(model.encode_speech(clips), before, atol=1e-3, rtol=0)
    assert not ComputePositions().apply(model, context).changed
    Cast(parts=("speech_encoder",), check_clips=1).apply(model, context)
    assert model.encode_speech(clips).dtype == torch.bfloat16


def test_tiny_has_sinusoids(context: Context) -> None:
    model = load_model("tiny")
    assert ComputePositions().apply(model, context).changed
    assert isinstance(model.speech_encoder.embed_positions, Sinusoids)


def test_trained_positions_are_kept(small_model: Loader, context: Context) -> None:
    model = small_model("llama")
    with torch.no_grad():
        model.speech_encoder.embed_positions.weight[3, 5] += 0.1
    with pytest.raises(PassError, match=r"up to 0\.1 away from sinusoids"):
        ComputePositions().apply(model, context)
    assert isinstance(model.speech_encoder.embed_positions, torch.nn.Embedding)
