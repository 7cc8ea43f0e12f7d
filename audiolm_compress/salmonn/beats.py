"""BEATs, the audio encoder of SALMONN (Chen et al., arXiv:2212.09058).

A Transformer over 16 x 16 patches of a log-mel spectrogram: a grouped convolution gives positions, and
attention adds a bucketed relative-position bias that each query gates (WavLM, arXiv:2110.13900, section
III-A). Module names are those of the published checkpoints. One difference: the relative-position table,
which those checkpoints repeat under every layer, belongs to the encoder here
(``encoder.relative_attention_bias``), so that any layer can be dropped, the first one too. Loading accepts
the repeated entries if they are identical; :meth:`Beats.upstream_state_dict` writes them.

    model = load_beats("BEATs_iter3_plus_AS2M.pt").eval()
    tokens = model(waveforms).features          # [batch, tokens, width], eight tokens per 160 ms
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.errors import BaselineError, DataError
from audiolm_compress.salmonn.beats_layers import BeatsConfig, BeatsLayer, WeightNormConv
from audiolm_compress.salmonn.fbank import FRAME_LENGTH, FRAME_SHIFT, MEL_BINS, beats_fbank, frame_count
from audiolm_compress.salmonn.fit import check_fit
from audiolm_compress.salmonn.guarded import check_config, readable
from audiolm_compress.salmonn.torch_file import read_torch_file

_TABLE = "relative_attention_bias.weight"


@dataclass(frozen=True)
class BeatsOutput:
    """Token features [batch, tokens, width] and their mask [batch, tokens], True = padding.

    The features have the weights' dtype.
    """

    features: Tensor
    padding_mask: Tensor | None


class Beats(nn.Module):
    """The encoder: waveforms in, token features out (eight per 160 ms with patches of 16, time-major)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        patch, width = config.input_patch_size, config.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, stride=patch, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        # Equal widths have no projection, and their checkpoints no such entry.
        self.post_extract_proj = nn.Linear(config.embed_dim, width) if config.embed_dim != width else None
        self.encoder = BeatsEncoder(config)
        self.predictor = nn.Linear(width, config.predictor_class) if config.finetuned_model else None

    def forward(self, waveforms: Tensor, padding_mask: Tensor | None = None) -> BeatsOutput:
        """Encode a batch of clips.

        Args:
            waveforms: samples at 16 kHz in [-1, 1], shape [batch, samples]; shorter clips end in zeros.
            padding_mask: True on those zeros, bool, shape [batch, samples]; None if no clip is padded. A clip
                must not be padding altogether.

        Raises:
            DataError: the clips are shorter than one patch (0.175 s with patches of 16).
        """
        patch = self.config.input_patch_size
        shortest = FRAME_LENGTH + (patch - 1) * FRAME_SHIFT
        if waveforms.shape[-1] < shortest:
            raise DataError(
                f"BEATs needs at least {shortest} samples at 16 kHz, but got {waveforms.shape[-1]}; "
                "append silence"
            )
        fbank = beats_fbank(waveforms)
        frame_mask = None if padding_mask is None else _shrink_mask(padding_mask, fbank.shape[1])
        return self.encode_fbank(fbank, frame_mask)

    def encode_fbank(self, fbank: Tensor, frame_mask: Tensor | None = None) -> BeatsOutput:
        """Encode spectrograms of :func:`beats_fbank`, [batch, frames, 128]; mask [batch, frames] or None."""
        patches = self.patch_embedding(fbank.to(self.patch_embedding.weight.dtype).unsqueeze(1))
        x = self.layer_norm(patches.flatten(2).transpose(1, 2))
        padding_mask = None if frame_mask is None else _shrink_mask(frame_mask, x.shape[1])
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        x = F.dropout(x, self.config.dropout_input, self.training)
        return BeatsOutput(self.encoder(x, padding_mask), padding_mask)

    def token_count(self, samples: int) -> int:
        """Tokens of a clip of that many samples."""
        patch = self.config.input_patch_size
        return frame_count(samples) // patch * (MEL_BINS // patch)

    def classify(self, waveforms: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Class probabilities [batch, classes]: sigmoid of the predictor's mean over valid tokens.

        Raises:
            BaselineError: the checkpoint is not a fine-tuned one.
        """
        if self.predictor is None:
            raise BaselineError(
                "classify needs a fine-tuned BEATs (finetuned_model: true), but this one has no predictor"
            )
        output = self(waveforms, padding_mask)
        logits = self.predictor(F.dropout(output.features, self.config.predictor_dropout, self.training))
        if output.padding_mask is None:
            return logits.mean(dim=1).sigmoid()
        valid = ~output.padding_mask.unsqueeze(2)
        return ((logits * valid).sum(dim=1) / valid.sum(dim=1)).sigmoid()

    def note_layers(self, count: int) -> None:
        """Let the config tell that ``count`` layers are left of those that were trained together."""
        config = replace(self.config, encoder_layers=count, deep_norm_layers=self.config.trained_layers)
        self.config = self.encoder.config = config
        for layer in self.encoder.layers:
            assert isinstance(layer, BeatsLayer)
            layer.config = config

    def upstream_state_dict(self) -> dict[str, Tensor]:
        """The weights under the published names: the relative-position table under every layer."""
        state = dict(self.state_dict())
        table = state.pop(f"encoder.{_TABLE}", None)
        if table is not None:
            for index in range(len(self.encoder.layers)):
                state[f"encoder.layers.{index}.self_attn.{_TABLE}"] = table
        return state


class BeatsEncoder(nn.Module):
    """Positional convolution, relative-position table and Transformer layers.

    ``layers`` may be replaced by a subset of itself, see :meth:`Beats.note_layers`. The residual scale of
    deep norm stays that of the depth which the weights were trained with.
    """

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_embed_dim
        self.pos_conv = nn.Sequential(
            WeightNormConv(width, config.conv_pos, config.conv_pos_groups), nn.GELU()
        )
        self.layers = nn.ModuleList(BeatsLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)
        self.relative_attention_bias = (
            nn.Embedding(config.num_buckets, config.encoder_attention_heads)
            if config.relative_position_embedding
            else None
        )
        if self.relative_attention_bias is not None:
            nn.init.normal_(self.relative_attention_bias.weight, std=0.02)
        self.register_load_state_dict_pre_hook(_merge_tables)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Features [batch, tokens, width] to features of the same shape."""
        config = self.config
        key_bias = None
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(2), 0.0)
            key_bias = x.new_zeros(padding_mask.shape).masked_fill_(padding_mask, -math.inf)[:, None, None, :]
        x = x + self.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        if not config.layer_norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, config.dropout, self.training)
        position_bias = self._position_bias(x.shape[1])
        for layer in self.layers:
            if config.layer_wise_gradient_decay_ratio < 1.0 and x.requires_grad:
                x.register_hook(lambda gradient: gradient * config.layer_wise_gradient_decay_ratio)
            if self.training and torch.rand(()).item() < config.encoder_layerdrop:
                continue
            x = layer(x, position_bias, key_bias)
        return self.layer_norm(x) if config.layer_norm_first else x

    def _position_bias(self, tokens: int) -> Tensor | None:
        """Bias of every key for every query, [heads, tokens, tokens]; all layers share it."""
        if self.relative_attention_bias is None:
            return None
        buckets = distance_buckets(tokens, self.config.num_buckets, self.config.max_distance)
        values = self.relative_attention_bias(buckets.to(self.relative_attention_bias.weight.device))
        # Row q holds distances -q .. tokens-1-q: a window over the 2 * tokens - 1 distances, from the right
        # end.
        return values.t().contiguous().unfold(1, tokens, 1).flip(1)


def load_beats(path: str | Path) -> Beats:
    """Read a published checkpoint, ``{"cfg": dict, "model": state dict}``, executing no pickled code.

    The model has the checkpoint's dtype and is in training mode, as torch modules are.

    Raises:
        BaselineError: the file is unreadable, contains anything but tensors and plain values, or its tensors
            do not fit its ``cfg``; every unknown, missing or wrongly shaped tensor is named.
    """
    config, state = read_beats(path)
    with readable(f"BEATs {path}"), torch.device("meta"):
        model = Beats(config)
    check_fit(state, model.upstream_state_dict(), path)
    model.load_state_dict(state, assign=True)
    return model


def read_beats(path: str | Path) -> tuple[BeatsConfig, dict[str, Tensor]]:
    """Config and tensors of a published checkpoint.

    Raises:
        BaselineError: the file is unreadable, or contains anything but tensors and plain values.
    """
    checkpoint = read_torch_file(path, {"cfg", "model"})
    check_config(checkpoint["cfg"], f"{path}: cfg")
    state = checkpoint["model"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BaselineError(f"{path}: the entry 'model' must map names to tensors")
    return BeatsConfig.from_dict(checkpoint["cfg"]), dict(state)


def _shrink_mask(mask: Tensor, length: int) -> Tensor:
    """[batch, n] to [batch, length]: padding where all of a group of n // length is; the rest is dropped."""
    group = mask.shape[1] // length
    return mask[:, : group * length].unflatten(1, (length, group)).all(dim=2)


@lru_cache(maxsize=64)
def distance_buckets(tokens: int, num_buckets: int, max_distance: int) -> Tensor:
    """Table rows of the distances key - query, from 1 - tokens to tokens - 1, int64 [2 * tokens - 1].

    Half of the buckets for each sign; of those, half for one distance each and the others logarithmic up to
    ``max_distance`` (Raffel et al., "T5", arXiv:1910.10683, section 2.1).
    """
    with torch.inference_mode(False):
        distance = torch.arange(1 - tokens, tokens)
        half = num_buckets // 2
        exact = half // 2
        far = distance.abs().clamp_min(exact).float()
        # In this order of operations: another one rounds the edges of some buckets to the other side.
        share = torch.log(far / exact) / math.log(max_distance / exact)
        logarithmic = exact + (share * (half - exact)).long()
        bucket = torch.where(distance.abs() < exact, distance.abs(), logarithmic.clamp_max(half - 1))
        return bucket + half * (distance > 0)


def _merge_tables(encoder: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: replace the layers' copies of the relative-position table by the encoder's."""
    names: Sequence[str] = sorted(
        name
        for name in state
        if name.startswith(f"{prefix}layers.") and name.endswith(f".self_attn.{_TABLE}")
    )
    for name in names:
        table = state.pop(name)
        kept = state.setdefault(prefix + _TABLE, table)
        if kept is not table and not torch.equal(kept, table):
            raise BaselineError(f"{name} differs from the table of {names[0]}; BEATs layers share one table")
