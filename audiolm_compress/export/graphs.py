"""Encoders and connector as modules of tensors alone, whose graphs hold for clips of any length.

What depends on the length is index arithmetic here, where the model's own code branches on it or asks a
library: a graph has one path. Both encoders begin with waveforms, so that nothing but these graphs stands
between samples and audio tokens. Their spectra are products with a matrix in float64, since a Fourier
transform of 400 points is none that every runtime computes exactly, nor faster. The weights are those of the
parts that a module is made of.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.salmonn.beats import Beats, BeatsEncoder, distance_buckets
from audiolm_compress.salmonn.connector import Connector
from audiolm_compress.salmonn.fbank import (
    FRAME_LENGTH,
    FRAME_SHIFT,
    frame_spectra,
    log_energies,
    normalised,
)
from audiolm_compress.salmonn.speech import FRAME_SAMPLES, LONGEST_FRAMES, encode

LONGEST_SAMPLES = LONGEST_FRAMES * FRAME_SAMPLES


class SpeechGraph(nn.Module):
    """Waveforms, padded or cut to whole frames of 20 ms, to Whisper's states.

    Args:
        encoder: with plain weights.
        extractor: of 30 s, without dither.
    """

    matrix: Tensor
    mel: Tensor

    def __init__(self, encoder: WhisperEncoder, extractor: WhisperFeatureExtractor) -> None:
        super().__init__()
        self.encoder = encoder
        self.size, self.hop = extractor.n_fft, extractor.hop_length
        window = torch.hann_window(self.size, dtype=torch.float64)
        self.register_buffer("matrix", _real_and_imaginary(torch.fft.rfft(torch.diag(window))))
        self.register_buffer("mel", torch.from_numpy(extractor.mel_filters).float())

    def forward(self, waveforms: Tensor) -> Tensor:
        """``waveforms`` [batch, 320 * frames] -> states [batch, frames, width]; at most 1500 frames."""
        return encode(self.encoder, self.features(waveforms))

    def features(self, waveforms: Tensor) -> Tensor:
        """The log-mel spectrogram [batch, bins, 2 * frames] that ``speech.log_mel`` gives.

        There a clip of less than 30 s has two frames more than are kept, which count for its loudest bin;
        behind a clip of 30 s there is nothing but its own mirror image.
        """
        batch, samples = waveforms.shape
        kept = samples // FRAME_SAMPLES * 2
        starts = torch.arange(kept + 2) * self.hop
        places = (starts[:, None] + torch.arange(self.size) - self.size // 2).abs()
        places = torch.where(places < LONGEST_SAMPLES, places, 2 * (LONGEST_SAMPLES - 1) - places)
        silence = waveforms.new_zeros(batch, FRAME_SAMPLES + self.size)
        power = _power(torch.cat((waveforms, silence), dim=1)[:, places], self.matrix)
        levels = (power.float() @ self.mel).clamp_min(1e-10).log10()
        heard = torch.where(starts[:, None] < LONGEST_SAMPLES, levels, levels.new_tensor(-10.0))
        levels = torch.maximum(levels[:, :kept], heard.amax((1, 2), keepdim=True) - 8.0)
        return ((levels + 4.0) / 4.0).transpose(1, 2)


class AudioGraph(nn.Module):
    """Waveforms of at least 1 s, padded with zeros, and their lengths to BEATs' states."""

    matrix: Tensor

    def __init__(self, beats: Beats) -> None:
        super().__init__()
        self.beats = beats
        beats.encoder = _AnyLength(beats.encoder)
        spectra = frame_spectra(torch.eye(FRAME_LENGTH, dtype=torch.float64))
        self.register_buffer("matrix", _real_and_imaginary(spectra))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """``waveforms`` [batch, samples], ``lengths`` int64 [batch] -> states [batch, tokens, width].

        Only frames in whole patches are computed: a graph's shapes then follow from the number of patches.
        """
        samples, patch = waveforms.shape[1], self.beats.config.input_patch_size
        reach = FRAME_LENGTH - FRAME_SHIFT
        frames, patches = (samples - reach) // FRAME_SHIFT, (samples - reach) // (patch * FRAME_SHIFT)
        starts = torch.arange(patches * patch)
        places = starts[:, None] * FRAME_SHIFT + torch.arange(FRAME_LENGTH)
        fbank = normalised(log_energies(_power(waveforms[:, places], self.matrix)))
        # A frame is padding if all samples of its share are, see `beats._shrink_mask`.
        padding = starts * (samples // frames) >= lengths[:, None]
        return self.beats.encode_fbank(fbank, padding).features


class ConnectorGraph(nn.Module):
    """Both encoders' states, or Whisper's alone, to audio tokens."""

    def __init__(self, connector: Connector) -> None:
        super().__init__()
        self.connector = connector

    def forward(self, speech_states: Tensor, audio_states: Tensor | None = None) -> Tensor:
        """States [batch, frames, width] and [batch, tokens, width] -> embeddings [batch, n, LLM width]."""
        connector = self.connector
        joined = connector.ln_speech(speech_states)
        if audio_states is not None:
            assert connector.ln_audio is not None
            streams = (joined, connector.ln_audio(audio_states))
            longest = torch.sym_max(streams[0].shape[1], streams[1].shape[1])
            padded = [F.pad(stream, (0, 0, 0, longest - stream.shape[1])) for stream in streams]
            joined = torch.cat(padded, dim=-1)
        return connector.projection(connector.qformer(joined).flatten(1, 2))


class _AnyLength(BeatsEncoder):
    """An encoder's modules, with a position bias that is looked up by distance.

    Distances beyond ``max_distance`` have the last buckets, so that one table serves all lengths.
    """

    table: Tensor

    def __init__(self, encoder: BeatsEncoder) -> None:
        nn.Module.__init__(self)
        self.training = encoder.training  # a new module trains, and would drop layers at random
        self.config = encoder.config
        self.pos_conv, self.layers, self.layer_norm = encoder.pos_conv, encoder.layers, encoder.layer_norm
        self.farthest = self.config.max_distance
        self.has_bias = encoder.relative_attention_bias is not None
        if encoder.relative_attention_bias is not None:
            buckets = distance_buckets(self.farthest + 1, self.config.num_buckets, self.farthest)
            self.register_buffer("table", encoder.relative_attention_bias(buckets).detach())

    def _position_bias(self, tokens: int) -> Tensor | None:
        if not self.has_bias:
            return None
        places = torch.arange(tokens)
        distances = (places - places[:, None]).clamp(-self.farthest, self.farthest)
        return self.table[distances + self.farthest].permute(2, 0, 1)


def _real_and_imaginary(spectra: Tensor) -> Tensor:
    """Complex [samples, bins] -> float64 [samples, 2 * bins], real parts first."""
    return torch.cat((spectra.real, spectra.imag), dim=1)


def _power(frames: Tensor, matrix: Tensor) -> Tensor:
    """Power spectra float64 [..., bins] of the samples [..., n] of frames."""
    real, imaginary = (frames.double() @ matrix).chunk(2, dim=-1)
    return real.square() + imaginary.square()
