"""Whisper's encoder on clips of any length up to 30 s (Radford et al., arXiv:2212.04356, section 2.2).

The library pads every clip to 30 s and its encoder refuses anything else, though nothing in the encoder needs
it: convolutions and attention work at any length, and the sinusoidal positions of a shorter clip are the
first rows of the table. At 30 s both functions give exactly what the library's do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.salmonn.connector import ConnectorConfig
from audiolm_compress.salmonn.stages import stage

FRAME_SAMPLES = 320  # a state of the encoder covers 20 ms
LONGEST_FRAMES = 1500  # 30 s
_MEL_FRAMES = 2  # of 10 ms, in a state
_STFT_REACH = 320  # beyond its last whole hop a clip is seen by the STFT windows of two more


def clip_frames(samples: int, bucket_seconds: float | None, connector: ConnectorConfig) -> int:
    """Encoder frames of 20 ms that a clip is padded to.

    Its length, at least 1 s, is rounded up to the bucket and then to the end of a connector window: frames
    behind the last whole window would not be heard.

    Args:
        samples: length of the clip at 16 kHz.
        bucket_seconds: see ``Salmonn.bucket_seconds``; None gives 1500.
        connector: whose windows they are.

    Returns:
        At most 1500 frames (30 s).
    """
    if bucket_seconds is None:
        return LONGEST_FRAMES
    bucket = round(bucket_seconds * SAMPLE_RATE) // FRAME_SAMPLES
    frames = math.ceil(max(samples, SAMPLE_RATE) / (bucket * FRAME_SAMPLES)) * bucket
    return min(connector.whole_windows(frames), LONGEST_FRAMES)


@stage("features")
def log_mel(extractor: WhisperFeatureExtractor, waveforms: Sequence[Tensor], frames: int) -> Tensor:
    """Whisper's input for clips padded with silence, or cut, to ``frames`` encoder frames.

    The extractor clamps a clip to eight decades below its loudest bin and mirrors its end. It is given a
    little more silence than asked for, which is then cut off: so the result is the beginning of what the
    same clip padded to 30 s gives, its last frame included.

    Args:
        extractor: of 30 s.
        waveforms: samples at 16 kHz in [-1, 1], [samples] each.
        frames: encoder frames of 20 ms, at most 1500.

    Returns:
        float32 [batch, mel bins, 2 * frames], on the CPU.
    """
    samples = frames * FRAME_SAMPLES
    longest = frames == LONGEST_FRAMES
    with torch.autocast("cpu", enabled=False):  # a spectrum needs its 32 bits, also amid 16-bit products
        features = extractor(
            [waveform[:samples].float().cpu().numpy() for waveform in waveforms],
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            max_length=samples if longest else samples + _STFT_REACH,
        ).input_features
    return features[..., : _MEL_FRAMES * frames]


def encode(encoder: WhisperEncoder, features: Tensor) -> Tensor:
    """The encoder's forward pass at any length; dropout and layer drop as its config says.

    Args:
        encoder: whose layers may be fewer than its config tells, or replaced.
        features: [batch, mel bins, 2 * frames], at most 1500 frames.

    Returns:
        States [batch, frames, width].
    """
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).permute(0, 2, 1)
    positions = encoder.embed_positions(torch.arange(x.shape[1], device=x.device))
    x = x + positions.to(encoder.layer_norm.weight.dtype)  # computed ones are in 32 bit
    x = F.dropout(x, encoder.dropout, encoder.training)
    for layer in encoder.layers:
        if encoder.training and torch.rand(()).item() < encoder.layerdrop:
            continue
        x = layer(x, None)
    return encoder.layer_norm(x)
