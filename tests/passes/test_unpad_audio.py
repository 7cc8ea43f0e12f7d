"""The pass that lets clips be as long as they are: its figures, its bounds, and the passes after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.calibration_loss import calibration_loss
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.unpad_audio import UnpadAudio
from audiolm_compress.quantization import QuantizedLinear
from audiolm_compress.reload_check import Behaviour
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[..., Salmonn]


def test_figures(small_model: Loader, context: Context) -> None:
    """Clips of 10 s and 3.2 s (4 s with the bucket) in equal parts."""
    model = small_model()
    before = calibration_loss(model, context.calibration)
    report = UnpadAudio(bucket_seconds=1.0).apply(model, context)
    assert model.bucket_seconds == 1.0
    figures = dict(report.figures)
    assert figures.pop("loss_before") == pytest.approx(before)
    assert figures.pop("loss_after") == pytest.approx(calibration_loss(model, context.calibration))
    assert figures == {
        "tokens_10s_before": 88,
        "tokens_10s_after": 30,
        "mean_tokens_before": 88,
        "mean_tokens_after": (30 + 12) / 2,
        "loss_clips": 8,
        "saved_bytes": 0,
    }
    assert not UnpadAudio(bucket_seconds=1.0).apply(model, context).changed


def test_saved_with_the_model(small_model: Loader, context: Context, tmp_path: Path) -> None:
    """In the answers to a batch of mixed lengths too, bit by bit."""
    model = small_model("gemma")
    UnpadAudio(bucket_seconds=0.5).apply(model, context)
    examples = [dataclasses.replace(example, task="asr") for example in context.calibration]
    again = load_model(store.save(model, tmp_path / "model"))
    assert again.bucket_seconds == 0.5
    Behaviour.of(model, examples).check(Behaviour.of(again, examples))


def test_absent_in_old_folders(small_model: Loader, tmp_path: Path) -> None:
    import json

    folder = store.save(small_model(), tmp_path / "model")
    config = json.loads((folder / store.CONFIG).read_text())
    assert config.pop("bucket_seconds") is None
    (folder / store.CONFIG).write_text(json.dumps(config))
    assert load_model(folder).bucket_seconds is None


@pytest.mark.parametrize("part", ["speech_encoder", "audio_encoder", "connector", "llm"])
def test_gptq_calibrates_on_clips_of_mixed_length(small_model: Loader, context: Context, part: str) -> None:
    model = small_model()
    UnpadAudio().apply(model, context)
    report = Gptq.model_validate({"parts": [part], "bits": 8, "group_size": -1}).apply(model, context)
    assert all(row["rows"] > 0 for row in report.modules)
    assert any(isinstance(module, QuantizedLinear) for module in model.get_submodule(part).modules())


def test_training_in_batches_of_mixed_length(small_model: Loader, context: Context) -> None:
    """The loss of a batch is that of its clips alone, weighted by their tokens; gradients flow."""
    model = small_model()
    UnpadAudio().apply(model, context)
    examples: list[Example] = list(context.calibration[:2])
    assert model.loss(examples).item() == pytest.approx(
        calibration_loss(model, examples, batch_size=1), rel=1e-4
    )
    model.connector.requires_grad_(True)
    model.loss(examples).backward()
    gradient = model.connector.projection.weight.grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.any()


@pytest.mark.parametrize(
    ("seconds", "message"), [(0.09, "greater than"), (31.0, "less than"), (0.25, "take 0.24 or 0.26")]
)
def test_impossible_buckets(seconds: float, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        UnpadAudio(bucket_seconds=seconds)


def test_no_calibration_clips(small_model: Loader, context: Context) -> None:
    model = small_model()
    with pytest.raises(PassError, match="give calibration data"):
        UnpadAudio().apply(model, dataclasses.replace(context, calibration=[]))
    assert model.bucket_seconds is None
