"""Decoding against the upstream dataset's own output, and every way a file can be bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiolm_compress.data.audio import audio_problem, load_audio, try_audio
from audiolm_compress.data.mpeg import MpegFrames, mpeg_frames
from audiolm_compress.errors import DataError

FIXTURE = Path(__file__).parents[1] / "fixtures/upstream_parity/audio_preprocessing"


def tone(seconds: float, rate: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FIXTURE / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", ["mono22k", "stereo44k"])
def test_waveform_equals_upstreams(name: str, expected: dict[str, np.ndarray]) -> None:
    audio = load_audio(FIXTURE / f"{name}.wav")
    assert audio.waveform.dtype == torch.float32
    assert len(audio.waveform) == expected[f"{name}_n_samples"]
    np.testing.assert_allclose(audio.waveform.numpy(), expected[f"{name}_audio"], atol=1e-6)
    assert audio.padded == (name == "stereo44k")
    assert not audio.truncated


def test_long_clip_is_cut_where_upstream_cuts_it(expected: dict[str, np.ndarray]) -> None:
    audio = load_audio(FIXTURE / "long8k.wav")
    ends = torch.cat([audio.waveform[:8000], audio.waveform[-8000:]]).numpy()
    assert len(audio.waveform) == expected["long8k_n_samples"] == 480_000
    np.testing.assert_allclose(ends, expected["long8k_audio_first_8000_last_8000"], atol=1e-6)
    assert audio.truncated and not audio.padded


def test_exactly_thirty_seconds_is_not_truncated(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(30, 8000), 8000)
    audio = load_audio(tmp_path / "a.wav")
    assert len(audio.waveform) == 480_000 and not audio.truncated and not audio.padded


@pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.1), ("mp3", 0.1)])
def test_every_format_is_read(tmp_path: Path, suffix: str, tolerance: float) -> None:
    samples = tone(2)
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, samples, 16_000)
    waveform = load_audio(path).waveform.numpy()
    assert len(waveform) == len(samples)
    assert np.abs(waveform[4000:-4000] - samples[4000:-4000]).max() < tolerance


def test_channel_setting(tmp_path: Path) -> None:
    left, right = tone(1.5), tone(1.5, hertz=1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    first = load_audio(tmp_path / "a.wav").waveform.numpy()
    mean = load_audio(tmp_path / "a.wav", channel="mean").waveform.numpy()
    np.testing.assert_allclose(first, left, atol=1e-6)
    np.testing.assert_allclose(mean, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    noise = np.random.default_rng(0).normal(scale=0.1, size=48_000)
    soundfile.write(whole, noise, 16_000)
    content = whole.read_bytes()
    assert try_audio(whole, "first")[0] == ""
    for share in (0.5, 0.9):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(content[: int(len(content) * share)])
        reason, audio = try_audio(cut, "first")
        assert audio is None and reason, share


@pytest.mark.parametrize(
    "kind", ["WAV", "WAV big", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST"], ids=lambda kind: kind.lower()
)
def test_a_cut_file_of_rarer_forms_is_refused(tmp_path: Path, kind: str) -> None:
    """Libsndfile reads what is left of them without a word."""
    path = tmp_path / "clip"
    form, _, big = kind.partition(" ")
    soundfile.write(path, tone(1.5), 16_000, "PCM_24", format=form, endian="BIG" if big else None)
    assert len(load_audio(path).waveform) == 24_000
    path.write_bytes(path.read_bytes()[:-900])
    assert try_audio(path, "first")[0].startswith("truncated: the header promises 72")


@pytest.fixture
def mp3(tmp_path: Path) -> Path:
    """Four seconds with an Info header, constant bitrate."""
    path = tmp_path / "clip.mp3"
    noise = np.random.default_rng(0).normal(scale=0.1, size=64_000)
    soundfile.write(path, noise, 16_000, bitrate_mode="CONSTANT", compression_level=0.5)
    return path


def test_mp3_without_a_length_header(mp3: Path) -> None:
    """What libsndfile guesses of its length must not be taken for a promise."""
    content = mp3.read_bytes()
    frames = mpeg_frames(mp3)
    assert frames is not None and frames.counted and frames.missing == 0
    second = content.index(content[:2], 100)
    mp3.write_bytes(content[second:])
    assert mpeg_frames(mp3) == MpegFrames(missing=0, samples=frames.samples - 576, counted=False)
    assert abs(len(load_audio(mp3).waveform) - 64_000) < 3000
    mp3.write_bytes(content[second:-5])
    assert try_audio(mp3, "first")[0] == "truncated: 5 bytes of the last frame are missing"


def test_mp3_that_libsndfile_reads_in_part_is_refused(mp3: Path) -> None:
    """Varying bitrate, no header that counts the frames: the guess is short, the rest would be lost."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=64_000) * np.linspace(1, 0, 64_000) ** 4
    soundfile.write(mp3, noise, 16_000, bitrate_mode="VARIABLE", compression_level=0.0)
    content = mp3.read_bytes()
    assert try_audio(mp3, "first")[0] == ""
    mp3.write_bytes(content[content.index(content[:2], 100) :])
    assert "could be read" in audio_problem(mp3)
    assert "writes such a header" in try_audio(mp3, "first")[0]


def test_counted_mp3_cut_between_frames_is_refused(mp3: Path) -> None:
    content = mp3.read_bytes()
    mp3.write_bytes(content[: content.rindex(content[:2])])
    frames = mpeg_frames(mp3)
    assert frames is not None and frames.counted and frames.missing == 0
    assert "could be read" in try_audio(mp3, "first")[0]


def test_a_flac_of_unknown_length_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "piped.flac"
    soundfile.write(path, tone(1.5), 16_000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert len(load_audio(path).waveform) == 24_000
    path.write_bytes(content[:-100])
    assert try_audio(path, "first")[1] is None


def test_ogg_without_its_last_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.ogg"
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=480_000), 16_000)
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"OggS")])
    assert "end-of-stream" in try_audio(path, "first")[0]


@pytest.mark.parametrize(
    ("form", "place", "unknown"), [("WAV", 4, b"\xff" * 4), ("W64", 16, b"\xff" * 7 + b"\x7f")]
)
def test_a_wav_of_unknown_length_is_accepted(tmp_path: Path, form: str, place: int, unknown: bytes) -> None:
    path = tmp_path / f"piped.{form.lower()}"
    soundfile.write(path, tone(1.5), 16_000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + place
    content[at : at + len(unknown)] = unknown
    path.write_bytes(content)
    assert len(load_audio(path).waveform) == 24_000


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.wav"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no audio file " * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind == "no_samples":
        soundfile.write(path, np.zeros(0), 16_000)
    elif kind in ("nan", "inf"):
        samples = tone(1.5)
        samples[100] = float(kind)
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
    elif kind == "silent":
        soundfile.write(path, np.zeros(20_000), 16_000)
    elif kind == "silent_first_channel":
        soundfile.write(path, np.stack([np.zeros(20_000), tone(1.25)], axis=1), 16_000)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "missing"),
        ("empty", "empty file"),
        ("text", "cannot be decoded"),
        ("folder", "not a file"),
        ("no_samples", "no samples"),
        ("nan", "NaN"),
        ("inf", "NaN or infinite"),
        ("silent", "silent throughout"),
        ("silent_first_channel", "first channel"),
    ],
)
def test_bad_files_are_named_with_their_reason(tmp_path: Path, kind: str, reason: str) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(DataError, match=reason) as caught:
        load_audio(path)
    assert str(path) in str(caught.value)
