"""Audio files in, 16 kHz mono waveforms out, by the rules of the upstream datasets.

Decode to float64, keep one channel, pad what is shorter than 1 s at the file's own rate, resample to 16 kHz
with soxr's HQ filter (what ``librosa.resample`` does by default), cut at 30 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.data.header import MOST_HOURS, most_frames, read_header
from audiolm_compress.data.truncation import promised_frames
from audiolm_compress.errors import DataError

Channel = Literal["first", "mean"]

MAX_SECONDS = 30  # the length that Whisper's encoder sees
# Two steps of 16-bit audio: dither and lossy coding of digital silence stay below, any recording is above.
SILENCE_PEAK = 2.0**-14
# Samples kept beyond the cut, so that the resampling filter sees what followed there.
_MARGIN_SECONDS = 1
_BLOCK_SAMPLES = 1 << 18  # of all channels


@dataclass(frozen=True)
class Audio:
    """A decoded clip.

    Attributes:
        waveform: float32 samples at 16 kHz, shape [samples], 1 s to 30 s.
        padded: the file was shorter than 1 s and zeros were added.
        truncated: the file was longer than 30 s and its rest was left out.
    """

    waveform: Tensor
    padded: bool
    truncated: bool


def load_audio(path: str | Path, *, channel: Channel = "first") -> Audio:
    """Read one wav, flac, ogg or mp3 file (or any other that libsndfile knows).

    Args:
        path: the file.
        channel: ``first`` keeps channel 0, as upstream does; ``mean`` averages all channels.

    Raises:
        DataError: the file is missing, empty, truncated, no audio, holds NaN or infinite samples, or is
            silent from beginning to end of the used part. The message starts with the path.
    """
    reason, audio = try_audio(Path(path), channel)
    if audio is None:
        raise DataError(f"{path}: {reason}")
    return audio


def audio_problem(path: Path) -> str:
    """Why a file cannot be used, as far as shows without decoding it; "" if nothing does."""
    return read_header(path)[0]


def try_audio(path: Path, channel: Channel) -> tuple[str, Audio | None]:
    """As :func:`load_audio`, but a reason is returned, not raised: (reason, None) or ("", audio)."""
    try:
        problem = audio_problem(path)
        if problem:
            return problem, None
        samples, rate, frames, promised = _decode(path, channel)
    except soundfile.LibsndfileError as error:
        return f"cannot be decoded as audio ({error.error_string.strip()})", None
    except OSError as error:
        return f"cannot be read ({error.strerror or error})", None
    if frames > most_frames(rate):
        return f"goes on for more than {MOST_HOURS} hours; cut it into clips", None
    if frames < promised:
        return f"truncated: {promised} frames are promised, {frames} could be read", None
    if frames == 0:
        return "no samples in the file", None
    if not np.isfinite(samples).all():
        return "holds NaN or infinite samples", None
    audio = _prepare(samples, rate, frames)
    if float(audio.waveform.abs().max()) < SILENCE_PEAK:
        return _silence(channel), None
    return "", audio


class _Stream(soundfile.SoundFile):
    """Read from beginning to end without seeking, which fails in a flac that does not know its length."""

    def seekable(self) -> bool:
        return False


def _decode(path: Path, channel: Channel) -> tuple[NDArray[np.float64], int, int, int]:
    """(samples [kept], rate, frames decoded, frames promised). All is decoded, only what is used is kept."""
    kept: list[NDArray[np.float64]] = []
    frames = 0
    with _Stream(path) as file:
        limit = (MAX_SECONDS + _MARGIN_SECONDS) * file.samplerate
        size = max(1, _BLOCK_SAMPLES // file.channels)
        while frames <= most_frames(file.samplerate):
            block = file.read(size, dtype="float64", always_2d=True)
            if len(block) == 0:
                break
            if frames < limit:
                mono = block[:, 0] if channel == "first" else block.mean(axis=1)
                kept.append(mono[: limit - frames].copy())
            frames += len(block)
        samples = np.concatenate(kept) if kept else np.zeros(0)
        promised = promised_frames(path, file.frames) or 0
        return samples, file.samplerate, frames, promised


def _prepare(samples: NDArray[np.float64], rate: int, frames: int) -> Audio:
    padded = frames < rate
    if padded:
        samples = np.pad(samples, (0, rate - frames))
    if rate != SAMPLE_RATE:
        length = -(-len(samples) * SAMPLE_RATE // rate)  # rounded up, as librosa does
        resampled = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
        samples = np.pad(resampled[:length], (0, max(0, length - len(resampled))))
    limit = MAX_SECONDS * SAMPLE_RATE
    truncated = frames * SAMPLE_RATE > limit * rate
    return Audio(torch.from_numpy(samples[:limit].astype(np.float32)), padded, truncated)


def _silence(channel: Channel) -> str:
    if channel == "first":
        return "silent throughout (in its first channel; channel: mean uses all of them)"
    return "silent throughout"
