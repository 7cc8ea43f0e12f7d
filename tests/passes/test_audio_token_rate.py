"""Other windows: the token counts of an actual pass through the connector, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from audiolm_compress.errors import PassError
from audiolm_compress.passes.audio_token_rate import AudioTokenRate
from audiolm_compress.passes.base import Context
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[..., Salmonn]


@pytest.mark.parametrize("bucket", [None, 1.0])
def test_tokens_and_weights(
    small_model: Loader, clips: list[torch.Tensor], context: Context, bucket: float | None
) -> None:
    model = small_model()
    model.bucket_seconds = bucket
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = AudioTokenRate(window_seconds=1.0, stride_seconds=0.5).apply(model, context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    ten, thirty = clips[0][:160000], clips[0].repeat(3)[:480000]
    for name, clip in (("tokens_10s_after", ten), ("tokens_30s_after", thirty)):
        assert model.encode_audio([clip]).mask.shape[1] == report.figures[name]
    assert report.figures["tokens_30s_before"] == 88
    assert report.figures["tokens_30s_after"] == (1500 - 50) // 25 + 1
    assert report.figures["tokens_10s_after"] == (59 if bucket is None else 19)
    assert report.figures["loss_before"] != report.figures["loss_after"]
    assert report.figures["saved_bytes"] == 0


def test_a_window_is_read_as_before(small_model: Loader, clips: list[torch.Tensor], context: Context) -> None:
    """Of windows twice as far apart remains every second token."""
    model = small_model()
    AudioTokenRate(stride_seconds=0.1).apply(model, context)
    dense = model.encode_audio(clips).embeddings
    AudioTokenRate(stride_seconds=0.2).apply(model, context)
    torch.testing.assert_close(model.encode_audio(clips).embeddings, dense[:, ::2])


def test_half_is_rounded_to_even(small_model: Loader, context: Context) -> None:
    model = small_model()
    AudioTokenRate(window_seconds=0.25, stride_seconds=0.25).apply(model, context)
    assert (model.connector.config.window, model.connector.config.stride) == (12, 12)


def test_saved_with_the_model(small_model: Loader, context: Context, tmp_path: Path) -> None:
    model = small_model()
    AudioTokenRate(window_seconds=2.0).apply(model, context)
    assert load_model(store.save(model, tmp_path / "model")).connector.config == model.connector.config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_seconds": 0.009}, r"window_seconds=0\.009 is less than half a frame"),
        ({"window_seconds": 31.0}, r"window_seconds=31\.0 is longer than the 30 s"),
        ({"stride_seconds": 0.4}, "windows of 17 frames every 20 frames leave 3 of them unheard"),
        ({"window_seconds": 0.2}, "windows of 10 frames every 17 frames leave 7"),
        ({"window_seconds": 16.0, "stride_seconds": 16.0}, r"the last 14\.00 s of 30 s unheard"),
        ({"window_seconds": 2.0, "stride_seconds": 1.58}, r"the last 1\.14 s of 30 s unheard"),
    ],
)
def test_refusals_change_nothing(
    small_model: Loader, context: Context, settings: dict[str, Any], message: str
) -> None:
    model = small_model()
    config = model.connector.config
    with pytest.raises(PassError, match=message):
        AudioTokenRate(**settings).apply(model, context)
    assert model.connector.config == model.connector.qformer.config == config


def test_without_any_setting_it_is_no_pass() -> None:
    with pytest.raises(ValidationError, match="neither window_seconds nor stride_seconds"):
        AudioTokenRate()


@pytest.mark.parametrize(("window", "stride"), [(2.0, 0.34), (7.0, 3.74), (16.0, 14.0)])
@torch.no_grad()
def test_what_is_unheard_changes_no_token(
    small_model: Loader, context: Context, window: float, stride: float
) -> None:
    """The frames that the report counts may hold anything; the one before them may not."""
    model = small_model()
    report = AudioTokenRate(window_seconds=window, stride_seconds=stride, loss_clips=1).apply(model, context)
    heard = 1500 - round(report.figures["unheard_seconds_30s"] * 50)
    config = model.connector.config
    speech, sound = torch.randn(1, 1500, config.speech_width), torch.randn(1, 1500, config.audio_width)
    tokens = model.connector(speech, sound)
    speech[:, heard:] = 1.0
    assert torch.equal(model.connector(speech, sound), tokens)
    speech[:, heard - 1] += torch.randn(config.speech_width)
    assert not torch.equal(model.connector(speech, sound), tokens)


def test_one_window_over_everything(small_model: Loader, context: Context) -> None:
    model = small_model()
    model.connector.set_windows(0, 0)
    with pytest.raises(PassError, match="one window, whatever its length"):
        AudioTokenRate(window_seconds=1.0).apply(model, context)


def test_the_same_windows_change_nothing(small_model: Loader, context: Context) -> None:
    assert not AudioTokenRate(window_seconds=0.333333).apply(small_model(), context).changed
