"""From sound to audio tokens: both encoders and the connector, at 30 s or at a clip's own length.

Upstream pads every clip to 30 s for Whisper. With ``bucket_seconds`` a clip is padded to its own length,
rounded up, and what comes out depends on the clip alone: clips that are padded to the same length are encoded
together, those of another length in another batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.salmonn.speech import FRAME_SAMPLES, clip_frames, encode, log_mel
from audiolm_compress.salmonn.stages import stage
from audiolm_compress.salmonn.structure import Structure


@dataclass(frozen=True)
class AudioTokens:
    """What the LLM reads of a clip.

    Attributes:
        embeddings: [batch, tokens, hidden], before the embedding scale that some LLMs have.
        mask: int64 [batch, tokens], 1 where a token is to be read; the zeros of shorter clips are at the end.
    """

    embeddings: Tensor
    mask: Tensor


class Hearing(Structure):
    """Waveforms in, audio tokens out.

    Attributes:
        feature_extractor: makes Whisper's log-mel input.
        bucket_seconds: clips are padded to a multiple of this and to whole windows of the connector, and cut
            at 30 s; None pads all of them to 30 s for Whisper and leaves their length for BEATs as it is.
    """

    feature_extractor: WhisperFeatureExtractor
    bucket_seconds: float | None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.connector.ln_speech.weight.device

    def encode_audio(self, waveforms: Sequence[Tensor]) -> AudioTokens:
        """Hear clips.

        Args:
            waveforms: float samples at 16 kHz in [-1, 1], one tensor of shape [samples] a clip. Clips
                shorter than 1 s are padded with silence. Whisper hears the first 30 s of a longer one.

        Returns:
            Audio tokens of all clips. Without ``bucket_seconds`` 30 s of states are read, whatever a clip's
            length; with it, tokens follow the length, and shorter clips are padded at the end under mask 0.
        """
        buckets = self.buckets(waveforms)
        if len(buckets) < 2:
            return self.connect(self.encode_speech(waveforms), self.encode_sound(waveforms))
        rows: dict[int, Tensor] = {}
        for indices in buckets:
            group = [waveforms[index] for index in indices]
            tokens = self.connect(self.encode_speech(group), self.encode_sound(group))
            rows.update(zip(indices, tokens.embeddings, strict=True))
        ordered = [rows[index] for index in range(len(waveforms))]
        mask = [row.new_ones(len(row), dtype=torch.int64) for row in ordered]
        pad = nn.utils.rnn.pad_sequence
        return AudioTokens(pad(ordered, batch_first=True), pad(mask, batch_first=True))

    def buckets(self, waveforms: Sequence[Tensor]) -> list[list[int]]:
        """Positions of the clips that are encoded together; one group of all without ``bucket_seconds``."""
        groups: dict[int, list[int]] = {}
        for index, waveform in enumerate(waveforms):
            groups.setdefault(self.frames([len(waveform)]), []).append(index)
        return list(groups.values())

    def frames(self, samples: Sequence[int]) -> int:
        """Whisper's states, of 20 ms, for clips of these lengths in one batch."""
        return clip_frames(max(samples), self.bucket_seconds, self.connector.config)

    def sound_tokens(self, samples: Sequence[int]) -> int:
        """BEATs' states for clips of these lengths in one batch; 0 without BEATs."""
        if self.audio_encoder is None:
            return 0
        return self.audio_encoder.token_count(self._sound_samples(samples))

    def token_count(self, samples: int) -> int:
        """Audio tokens of a single clip."""
        frames = max(self.frames([samples]), self.sound_tokens([samples]))
        return self.connector.config.tokens(frames)

    @stage("speech_encoder")
    def encode_speech(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Whisper's states [batch, frames, speech_width], as long as the longest clip's bucket."""
        features = log_mel(self.feature_extractor, waveforms, self.frames([len(w) for w in waveforms]))
        weight = self.speech_encoder.conv1.weight
        return encode(self.speech_encoder, features.to(weight.device, weight.dtype))

    def encode_sound(self, waveforms: Sequence[Tensor]) -> Tensor | None:
        """BEATs' states [batch, tokens, audio_width]; None without BEATs.

        The states under the padding of a clip stay in and the connector reads them, as upstream's does for
        the shorter clips of a batch. Without ``bucket_seconds`` an answer can therefore depend on the length
        of the clips beside it, but never on their content.
        """
        if self.audio_encoder is None:
            return None
        with stage("audio_encoder"):
            return self.audio_encoder(*self.pad_sounds(waveforms)).features

    @stage("features")
    def pad_sounds(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """BEATs' input: clips padded with zeros [batch, samples], and True on the padding if there is any."""
        width = self._sound_samples([len(waveform) for waveform in waveforms])
        lengths = [min(max(len(waveform), SAMPLE_RATE), width) for waveform in waveforms]
        batch = torch.zeros(len(lengths), width, device=self.device)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = waveform[:width]
        if min(lengths) == width:
            return batch, None
        ends = torch.tensor(lengths, device=self.device)
        return batch, torch.arange(width, device=self.device) >= ends[:, None]

    def _sound_samples(self, samples: Sequence[int]) -> int:
        """What BEATs' clips of these lengths are padded to."""
        if self.bucket_seconds is None:
            return max(*samples, SAMPLE_RATE)
        return self.frames(samples) * FRAME_SAMPLES

    @stage("connector")
    def connect(self, speech_states: Tensor, audio_states: Tensor | None) -> AudioTokens:
        """Audio tokens of encoder states: Whisper [batch, T, Ds] and BEATs [batch, N, Da]."""
        embeddings = self.connector(speech_states, audio_states)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device)
        return AudioTokens(embeddings, mask)
