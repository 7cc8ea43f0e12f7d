"""Clips at their own length: batches of mixed lengths are the single clips, and 30 s is the library's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.salmonn.connector import ConnectorConfig
from audiolm_compress.salmonn.fbank import beats_fbank
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.speech import clip_frames, encode, log_mel

Loader = Callable[..., Salmonn]
SECONDS = (9.3, 0.4, 3.2, 10.0, 2.95, 1.0)


@pytest.fixture
def mixed(clips: list[Tensor]) -> list[Tensor]:
    """Clips of several buckets, two of them in each of some."""
    return [
        clips[0][int(index) : int(index + seconds * SAMPLE_RATE)] for index, seconds in enumerate(SECONDS)
    ]


@pytest.fixture
def unpadded(small_model: Loader) -> Salmonn:
    model = small_model()
    model.bucket_seconds = 1.0
    return model


def test_frames_cover_the_clip_and_end_with_a_window() -> None:
    """Against a search for the shortest length that fits."""
    for window, stride in ((17, 17), (25, 10), (100, 50), (0, 0)):
        connector = ConnectorConfig(8, 8, 8, window=window, stride=stride)
        for seconds in (0.1, 1.0, 2.0, 3.01, 9.99, 10.0, 28.0, 30.0, 31.0):
            for bucket in (0.1, 0.5, 1.0, 7.0, 30.0):
                clip = round(max(1.0, min(seconds, 30.0)) * 100)
                longest = next(n for n in range(0, 10000, round(bucket * 100)) if n >= clip) // 2
                fitting = [
                    n
                    for n in range(longest, 2000)
                    if window == 0 or (n >= window and (n - window) % stride == 0)
                ]
                found = clip_frames(round(seconds * SAMPLE_RATE), bucket, connector)
                assert found == min(fitting[0], 1500)
                assert connector.tokens(found) >= 1
    assert clip_frames(16000, None, ConnectorConfig(8, 8, 8)) == 1500


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_encoder_is_the_librarys_at_30_seconds(
    small_model: Loader, clips: list[Tensor], variant: str
) -> None:
    model = small_model(variant)
    features = model.feature_extractor(
        [clip.numpy() for clip in clips], sampling_rate=SAMPLE_RATE, return_tensors="pt"
    ).input_features
    assert torch.equal(log_mel(model.feature_extractor, clips, 1500), features)
    with torch.no_grad():
        expected = model.speech_encoder(features).last_hidden_state
        assert torch.equal(encode(model.speech_encoder, features), expected)


@pytest.mark.parametrize("frames", [51, 255, 510, 1499])
def test_mel_is_the_beginning_of_the_padded_one(
    small_model: Loader, clips: list[Tensor], frames: int
) -> None:
    """Last frame and level included, also where the loudest sound stands at the very end."""
    extractor = small_model().feature_extractor
    samples = frames * 320
    cut = [clip[:samples].clone() for clip in clips]
    loud = torch.zeros(samples)
    loud[-1] = 1.0
    cut.append(loud)
    padded = log_mel(extractor, cut, 1500)
    found = log_mel(extractor, cut, frames)
    assert found.shape == (3, 80, 2 * frames)
    torch.testing.assert_close(found, padded[..., : 2 * frames], atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["gemma", "llama"])
@pytest.mark.parametrize("bucket", [0.5, 1.0, 7.0])
def test_mixed_lengths_are_heard_like_single_clips(
    small_model: Loader, mixed: list[Tensor], variant: str, bucket: float
) -> None:
    model = small_model(variant)
    model.bucket_seconds = bucket
    with torch.no_grad():
        together = model.encode_audio(mixed)
        alone = [model.encode_audio([clip]) for clip in mixed]
    counts = [model.token_count(len(clip)) for clip in mixed]
    assert together.embeddings.shape[:2] == together.mask.shape == (len(mixed), max(counts))
    for row, (clip, count) in enumerate(zip(alone, counts, strict=True)):
        assert clip.mask.tolist() == [[1] * count]
        assert together.mask[row].tolist() == [1] * count + [0] * (max(counts) - count)
        torch.testing.assert_close(together.embeddings[row, :count], clip.embeddings[0], atol=1e-5, rtol=1e-5)
        assert not together.embeddings[row, count:].any()


def test_neighbours_do_not_matter(unpadded: Salmonn, mixed: list[Tensor]) -> None:
    """Neither those in the same bucket nor those in other ones."""
    torch.manual_seed(0)
    noise = [torch.randn(len(clip)) for clip in mixed]
    with torch.no_grad():
        expected = unpadded.encode_audio(mixed)
        for row, clip in enumerate(mixed):
            changed = [*noise[:row], clip, *noise[row + 1 :]]
            found = unpadded.encode_audio(changed).embeddings[row]
            torch.testing.assert_close(found, expected.embeddings[row], atol=1e-6, rtol=1e-6)


def test_answers_do_not_depend_on_the_batch(unpadded: Salmonn, mixed: list[Tensor]) -> None:
    alone = [unpadded.generate([clip], num_beams=1)[0] for clip in mixed]
    assert unpadded.generate(mixed, num_beams=1) == alone


def test_tokens_follow_the_length(unpadded: Salmonn, clips: list[Tensor]) -> None:
    shapes = [
        unpadded.encode_audio([clips[0][: seconds * SAMPLE_RATE]]).mask.shape[1] for seconds in (1, 5, 10)
    ]
    assert shapes == [3, 15, 30]
    assert unpadded.encode_audio([clips[0].repeat(4)]).mask.shape[1] == 88  # 40 s


def test_at_30_seconds_nothing_differs(small_model: Loader, clips: list[Tensor]) -> None:
    """A clip of 30 s fills every bucket: the same tokens as upstream's, bit by bit."""
    model = small_model()
    clip = clips[0].repeat(3)
    with torch.no_grad():
        expected = model.encode_audio([clip])
        model.bucket_seconds = 1.0
        found = model.encode_audio([clip])
    assert torch.equal(found.embeddings, expected.embeddings)
    assert torch.equal(found.mask, expected.mask)


def test_windows_longer_than_the_clip(unpadded: Salmonn, clips: list[Tensor]) -> None:
    """The clip is padded to one window."""
    unpadded.connector.set_windows(150, 150)
    assert unpadded.encode_audio([clips[0][:SAMPLE_RATE]]).mask.tolist() == [[1]]


def test_gradients_reach_the_connector(unpadded: Salmonn, mixed: list[Tensor]) -> None:
    unpadded.connector.requires_grad_(True)
    unpadded.encode_audio(mixed).embeddings.sum().backward()
    gradient = unpadded.connector.qformer.query_tokens.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_hearing_through_whisper_alone(unpadded: Salmonn, clips: list[Tensor]) -> None:
    unpadded.audio_encoder = None
    assert unpadded.encode_sound(clips) is None
    assert unpadded.token_count(10 * SAMPLE_RATE) == 30


def test_spectra_keep_their_32_bits_amid_16_bit_products(small_model: Loader, clips: list[Tensor]) -> None:
    model = small_model()
    waveforms = torch.stack([clip[:SAMPLE_RATE] for clip in clips])
    expected = log_mel(model.feature_extractor, clips, 1500), beats_fbank(waveforms)
    with torch.autocast("cpu", torch.bfloat16):
        found = log_mel(model.feature_extractor, clips, 1500), beats_fbank(waveforms)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
