"""The spectrogram BEATs listens to: Kaldi's log-mel filter bank, written for batches.

Kaldi's defaults (``compute-fbank-feats``) at 16 kHz, with 128 mel bins and no dither: frames of 25 ms every
10 ms, only whole frames; mean removed and pre-emphasis 0.97 inside each frame; Povey window; power spectrum
of 512 points; triangles on Kaldi's mel scale from 20 Hz to 8 kHz; logarithm, floored at the epsilon of
float32. BEATs then normalises with the fixed mean and deviation of its pre-training data (Chen et al.,
"BEATs", arXiv:2212.09058).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.errors import DataError
from audiolm_compress.salmonn.stages import stage

FRAME_LENGTH = 400
FRAME_SHIFT = 160
MEL_BINS = 128

_FFT_SIZE = 512
_LOWEST_HZ = 20.0
_PRE_EMPHASIS = 0.97
_INT16_SCALE = 32_768.0  # Kaldi works on integer sample values
_LOG_FLOOR = torch.finfo(torch.float32).eps
_BEATS_MEAN = 15.41663
_BEATS_DEVIATION = 6.55582


def frame_count(samples: int) -> int:
    """Number of whole 25 ms frames, one every 10 ms, in ``samples`` samples at 16 kHz."""
    return max(0, 1 + (samples - FRAME_LENGTH) // FRAME_SHIFT)


def kaldi_fbank(waveforms: Tensor) -> Tensor:
    """Log-mel filter bank as Kaldi computes it, without dither.

    Args:
        waveforms: samples at 16 kHz in [-1, 1], any floating dtype, shape [batch, samples].

    Returns:
        Natural logarithms of mel energies, float32, shape [batch, frames, 128]. Spectra are computed in
        float64 (float32 on Apple's MPS, which has none): that keeps the quiet bins of loud frames exact.

    Raises:
        DataError: a clip is shorter than one frame (400 samples).
    """
    if waveforms.ndim != 2:
        raise DataError(f"fbank needs waveforms of shape [batch, samples], but got {list(waveforms.shape)}")
    if waveforms.shape[1] < FRAME_LENGTH:
        raise DataError(
            f"fbank needs at least {FRAME_LENGTH} samples (25 ms at 16 kHz), but got {waveforms.shape[1]}; "
            "append silence"
        )
    dtype = torch.float32 if waveforms.device.type == "mps" else torch.float64
    spectrum = frame_spectra(waveforms.to(dtype).unfold(1, FRAME_LENGTH, FRAME_SHIFT))
    return log_energies(spectrum.real.square() + spectrum.imag.square())


def frame_spectra(frames: Tensor) -> Tensor:
    """Spectra, complex [..., frames, 257], of the samples of frames [..., frames, 400]; a linear map."""
    window, _ = _window_and_mel(frames.device, frames.dtype)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    # The first sample of a frame has no predecessor there; Kaldi uses the sample itself.
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    # The scale is a power of two: where it is multiplied in changes no bit.
    return torch.fft.rfft((frames - _PRE_EMPHASIS * previous) * (window * _INT16_SCALE), n=_FFT_SIZE)


def log_energies(power: Tensor) -> Tensor:
    """Natural logarithms of mel energies, float32 [..., 128], of power spectra [..., 257]."""
    _, mel = _window_and_mel(power.device, power.dtype)
    return (power.float() @ mel).clamp_min(_LOG_FLOOR).log()


def normalised(fbank: Tensor) -> Tensor:
    """The output of :func:`kaldi_fbank` as BEATs' pre-training data have it."""
    return (fbank - _BEATS_MEAN) / (2.0 * _BEATS_DEVIATION)


@stage("features")
def beats_fbank(waveforms: Tensor) -> Tensor:
    """The input of BEATs: :func:`kaldi_fbank`, normalised, float32, shape [batch, frames, 128]."""
    with torch.autocast(waveforms.device.type, enabled=False):  # a spectrum needs its 32 bits
        return normalised(kaldi_fbank(waveforms))


@lru_cache(maxsize=8)
def _window_and_mel(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Povey window [400] in ``dtype`` and mel matrix [257, 128] in float32, computed once per device."""
    with torch.inference_mode(False):
        # Made outside inference mode: a cached inference tensor could not be used in training later.
        window = torch.hann_window(FRAME_LENGTH, periodic=False, dtype=torch.float64) ** 0.85
        return window.to(device, dtype), _mel_matrix().to(device, torch.float32)


def _mel_matrix() -> Tensor:
    """Triangles with straight sides on the mel scale, [257, 128] in float64; the Nyquist bin is in none."""
    low, high = _mel(_LOWEST_HZ), _mel(SAMPLE_RATE / 2)
    edges = torch.linspace(low, high, MEL_BINS + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    hertz = torch.arange(_FFT_SIZE // 2, dtype=torch.float64) * (SAMPLE_RATE / _FFT_SIZE)
    bins = (1127.0 * torch.log1p(hertz / 700.0))[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return torch.cat([triangles, torch.zeros(1, MEL_BINS, dtype=torch.float64)])


def _mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)
