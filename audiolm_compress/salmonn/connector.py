"""The connector: two streams of encoder states in, audio tokens for the LLM out.

Whisper and BEATs states are LayerNormed, joined frame by frame, cut into windows of a third of a
second, and each window is read by a small Q-Former whose queries become tokens after a projection
(SALMONN, arXiv:2310.13289, section 3; the Q-Former is BLIP-2's, arXiv:2301.12597).

Windows are independent of each other. Two things follow, both exact: keys and values are computed once
per frame even where windows overlap, and all that happens to the queries before they first look at the
audio is computed for one window and shared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QFORMER_NORM_EPS = 1e-12


def window_frames(seconds: float) -> int:
    """Frames in a window: upstream's rule, Python's round half to even (0.25 s is 12, not 13)."""
    return round(1500 * seconds / 30)


@dataclass(frozen=True)
class ConnectorConfig:
    """Sizes of the connector.

    Attributes:
        speech_width, audio_width, llm_width: widths of Whisper, BEATs (0: there is none) and the LLM's
            embeddings.
        hidden, heads, layers, intermediate: the Q-Former's sizes.
        queries: audio tokens per window.
        window, stride: in frames of 20 ms; window 0 is one window over the whole stream.
        dropout: in training only.
    """

    speech_width: int
    audio_width: int
    llm_width: int
    hidden: int = 768
    heads: int = 12
    layers: int = 2
    intermediate: int = 3072
    queries: int = 1
    window: int = 17
    stride: int = 17
    dropout: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    def tokens(self, frames: int) -> int:
        """Audio tokens that come out of ``frames`` encoder frames."""
        if self.window == 0:
            return self.queries
        return max(0, (frames - self.window) // self.stride + 1) * self.queries

    def whole_windows(self, frames: int) -> int:
        """``frames`` rounded up until a window ends with the last of them, so that none is dropped."""
        if self.window == 0:
            return frames
        return self.window + max(0, -((self.window - frames) // self.stride)) * self.stride


class Attention(nn.Module):
    """Multi-head attention with separate projections, so that each can be quantised or pruned."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.output = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """[..., length, width] to [..., heads, length, width / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        """Attention of ``queries`` [n, q, width] over projected keys and values [n, k, width]."""
        heads = F.scaled_dot_product_attention(
            self.split(self.query(queries)), self.split(keys), self.split(values), dropout_p=dropout
        )
        return self.output(heads.transpose(-3, -2).flatten(-2))


class QFormerLayer(nn.Module):
    """Self-attention of the queries, cross-attention to a window, feed-forward; all post-norm."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.self_attention = Attention(hidden, hidden, config.heads)
        self.self_norm = nn.LayerNorm(hidden, eps=QFORMER_NORM_EPS)
        self.cross_attention = Attention(hidden, config.speech_width + config.audio_width, config.heads)
        self.cross_norm = nn.LayerNorm(hidden, eps=QFORMER_NORM_EPS)
        self.intermediate = nn.Linear(hidden, config.intermediate)
        self.output = nn.Linear(config.intermediate, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=QFORMER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def attend_to_queries(self, queries: Tensor) -> Tensor:
        """The part that does not depend on the audio; [n, queries, hidden] in and out."""
        attention = self.self_attention
        mixed = attention.attend(
            queries, attention.key(queries), attention.value(queries), self.dropout.p * self.training
        )
        return self.self_norm(self.dropout(mixed) + queries)

    def attend_to_window(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Cross-attention and feed-forward; keys and values are [n, window, hidden]."""
        mixed = self.cross_attention.attend(queries, keys, values, self.dropout.p * self.training)
        queries = self.cross_norm(self.dropout(mixed) + queries)
        return self.output_norm(self.dropout(self.output(F.gelu(self.intermediate(queries)))) + queries)


class QFormer(nn.Module):
    """The window-level Q-Former: ``frames`` [batch, T, width] to [batch, windows, queries, hidden]."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.hidden).normal_(std=0.02))
        self.query_norm = nn.LayerNorm(config.hidden, eps=QFORMER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(QFormerLayer(config) for _ in range(config.layers))

    def windows(self, frames: Tensor) -> Tensor:
        """Cut [batch, T, width] into [batch * windows, window, width]; trailing frames are dropped."""
        if self.config.window == 0:
            return frames
        cut = frames.unfold(1, self.config.window, self.config.stride)
        return cut.transpose(-1, -2).flatten(0, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Read every window.

        Args:
            frames: joined encoder states, [batch, T, speech_width + audio_width].

        Returns:
            [batch, windows, queries, hidden].
        """
        batch = frames.shape[0]
        count = self.config.tokens(frames.shape[1]) // self.config.queries * batch
        queries = self.query_norm(self.query_tokens)
        if self.training:  # dropout differs from window to window
            queries = queries.expand(count, -1, -1)
        queries = self.dropout(queries)
        for layer in self.layers:
            assert isinstance(layer, QFormerLayer)
            queries = layer.attend_to_queries(queries).expand(count, -1, -1)
            keys = self.windows(layer.cross_attention.key(frames))
            values = self.windows(layer.cross_attention.value(frames))
            queries = layer.attend_to_window(queries, keys, values)
        return queries.unflatten(0, (batch, -1))


class Connector(nn.Module):
    """LayerNorms, joining, Q-Former and projection."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.ln_speech = nn.LayerNorm(config.speech_width)
        self.ln_audio = nn.LayerNorm(config.audio_width) if config.audio_width else None
        self.qformer = QFormer(config)
        self.projection = nn.Linear(config.hidden, config.llm_width)

    def set_windows(self, window: int, stride: int) -> None:
        """Read the frames in other windows; both in frames, see ``ConnectorConfig``."""
        self.config = self.qformer.config = replace(self.config, window=window, stride=stride)

    @torch.no_grad()
    def replace_audio(self, mapping: Tensor, offset: Tensor) -> None:
        """Read another audio stream, or none, in the place of the one there is.

        With old ~ mapping @ new + offset, both streams as their LayerNorms give them, every key and value
        stays what it was up to the error of that: W_new = W_old mapping, b_new = b + W_old offset, where W
        are the audio columns. The new LayerNorm starts as the identity.

        Args:
            mapping: [old audio width, new audio width]; a new width of 0 leaves no audio stream.
            offset: [old audio width].
        """
        speech, width = self.config.speech_width, mapping.shape[1]
        for layer in self.qformer.layers:
            assert isinstance(layer, QFormerLayer)
            for linear in (layer.cross_attention.key, layer.cross_attention.value):
                weight, dtype = linear.weight, linear.weight.dtype
                old = weight[:, speech:].to(mapping.dtype)
                linear.bias.add_((old @ offset).to(dtype))
                columns = torch.cat((weight[:, :speech], (old @ mapping).to(dtype)), dim=1)
                linear.weight = nn.Parameter(columns, requires_grad=weight.requires_grad)
                linear.in_features = speech + width
        like = self.ln_speech.weight
        self.config = self.qformer.config = replace(self.config, audio_width=width)
        self.ln_audio = nn.LayerNorm(width, device=like.device, dtype=like.dtype) if width else None
        if self.ln_audio is not None:
            self.ln_audio.requires_grad_(like.requires_grad)

    def join(self, speech: Tensor, audio: Tensor | None) -> Tensor:
        """Norm both streams, zero-pad the shorter one at its end and concatenate the features.

        Args:
            speech: Whisper states [batch, T, speech_width].
            audio: BEATs states [batch, N, audio_width]; None for a connector without that stream.

        Returns:
            [batch, max(T, N), speech_width + audio_width].
        """
        dtype = self.ln_speech.weight.dtype
        speech = self.ln_speech(speech.to(dtype))
        if self.ln_audio is None or audio is None:
            return speech
        audio = self.ln_audio(audio.to(dtype))
        missing = speech.shape[1] - audio.shape[1]
        if missing > 0:
            audio = F.pad(audio, (0, 0, 0, missing))
        elif missing < 0:
            speech = F.pad(speech, (0, 0, 0, -missing))
        return torch.cat((speech, audio), dim=-1)

    def forward(self, speech: Tensor, audio: Tensor | None) -> Tensor:
        """Audio tokens [batch, windows * queries, llm_width] of two streams of encoder states."""
        return self.projection(self.qformer(self.join(speech, audio)).flatten(1, 2))
