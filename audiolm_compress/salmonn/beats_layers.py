"""What BEATs (``beats.py``) is built of: configuration, Transformer layers, positional convolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.errors import BaselineError
from audiolm_compress.salmonn.fbank import MEL_BINS

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


@dataclass(frozen=True)
class BeatsConfig:
    """The ``cfg`` entry of a BEATs checkpoint; fields it does not give have these defaults.

    ``embed_dim`` is the width of the patch embedding, ``encoder_embed_dim`` that of the Transformer.
    ``input_patch_size`` has no usable default: a checkpoint must give it. ``deep_norm_layers`` is none of the
    checkpoint's: the depth that the weights were trained with, where layers have been dropped since. Nor is
    ``encoder_head_dim``: the width of a head where heads have been removed since.
    """

    input_patch_size: int = -1
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_wise_gradient_decay_ratio: float = 1.0
    layer_norm_first: bool = False
    deep_norm: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    dropout_input: float = 0.0
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = False
    num_buckets: int = 320
    max_distance: int = 1280
    gru_rel_pos: bool = False
    finetuned_model: bool = False
    predictor_dropout: float = 0.1
    predictor_class: int = 527
    deep_norm_layers: int | None = None
    encoder_head_dim: int | None = None

    @property
    def head_dim(self) -> int:
        """Width of one attention head: a share of the width, unless heads have been removed since."""
        return self.encoder_head_dim or self.encoder_embed_dim // self.encoder_attention_heads

    @property
    def trained_layers(self) -> int:
        """Depth that gives the residual scale of deep norm."""
        return self.encoder_layers if self.deep_norm_layers is None else self.deep_norm_layers

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BeatsConfig:
        """Read a checkpoint's ``cfg``; entries that inference does not know are left out."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain values."""
        return asdict(self)

    def check(self) -> None:
        """Raise BaselineError if no model can be built from these numbers."""
        wrong = []
        if self.input_patch_size < 1 or MEL_BINS % self.input_patch_size:
            wrong.append(f"input_patch_size={self.input_patch_size} does not divide the {MEL_BINS} mel bins")
        if self.encoder_head_dim is None and self.encoder_embed_dim % self.encoder_attention_heads:
            wrong.append(f"encoder_attention_heads={self.encoder_attention_heads} does not divide the width")
        if self.encoder_embed_dim % self.conv_pos_groups:
            wrong.append(f"conv_pos_groups={self.conv_pos_groups} does not divide the width")
        if self.activation_fn not in _ACTIVATIONS:
            wrong.append(f"activation_fn={self.activation_fn!r} is not one of {sorted(_ACTIVATIONS)}")
        if wrong:
            raise BaselineError(f"BEATs of width {self.encoder_embed_dim}: " + "; ".join(wrong))


class BeatsLayer(nn.Module):
    """Self-attention and feed-forward; post-norm (with deep norm, arXiv:2203.00555) or pre-norm."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_embed_dim
        self.self_attn = BeatsAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        deep = config.deep_norm and not config.layer_norm_first
        self.residual_scale = (2.0 * config.trained_layers) ** 0.25 if deep else 1.0
        if config.deep_norm:  # table 1 of arXiv:2203.00555, encoder only
            gain = (8.0 * config.trained_layers) ** -0.25
            for linear in (self.fc1, self.fc2, self.self_attn.v_proj, self.self_attn.out_proj):
                nn.init.xavier_normal_(linear.weight, gain)
            for linear in (self.self_attn.q_proj, self.self_attn.k_proj):
                nn.init.xavier_normal_(linear.weight)

    def forward(self, x: Tensor, position_bias: Tensor | None, key_bias: Tensor | None) -> Tensor:
        """``x`` [batch, tokens, width]; biases as in :class:`BeatsAttention`."""
        if self.config.layer_norm_first:
            x = x + self._attend(self.self_attn_layer_norm(x), position_bias, key_bias)
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x * self.residual_scale + self._attend(x, position_bias, key_bias))
        return self.final_layer_norm(x * self.residual_scale + self._feed_forward(x))

    def _attend(self, x: Tensor, position_bias: Tensor | None, key_bias: Tensor | None) -> Tensor:
        return F.dropout(self.self_attn(x, position_bias, key_bias), self.config.dropout, self.training)

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = _ACTIVATIONS[self.config.activation_fn](self.fc1(x))
        x = F.dropout(x, self.config.activation_dropout, self.training)
        return F.dropout(self.fc2(x), self.config.dropout, self.training)


class BeatsAttention(nn.Module):
    """Self-attention whose relative-position bias is gated by each query and head."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.dropout = config.attention_dropout
        inner = self.heads * config.head_dim
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)
        self.gated = config.gru_rel_pos
        if self.gated:
            self.grep_linear = nn.Linear(config.head_dim, 8)
            self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x: Tensor, position_bias: Tensor | None, key_bias: Tensor | None) -> Tensor:
        """``x`` [batch, tokens, width]; biases [heads, tokens, tokens] and [batch, 1, 1, tokens], or None."""
        batch, tokens, _ = x.shape
        query = self.q_proj(x).view(batch, tokens, self.heads, -1).transpose(1, 2)
        key = self.k_proj(x).view(batch, tokens, self.heads, -1).transpose(1, 2)
        value = self.v_proj(x).view(batch, tokens, self.heads, -1).transpose(1, 2)
        bias = self._bias(query, position_bias, key_bias)
        # Upstream's softmax works on 1/32 of the logits and multiplies back; without rounding that changes
        # nothing.
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if bias is None else bias.to(query.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).reshape(batch, tokens, -1))

    def _bias(self, query: Tensor, position_bias: Tensor | None, key_bias: Tensor | None) -> Tensor | None:
        if position_bias is None:
            return key_bias
        if not self.gated:
            return position_bias.unsqueeze(0) if key_bias is None else position_bias + key_bias
        # WavLM, arXiv:2110.13900, eq. 3 to 6.
        sums = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1)
        update, reset = sums.sigmoid().split(1, dim=-1)
        gate = update * (reset * self.grep_a - 1.0) + 2.0
        return gate * position_bias if key_bias is None else torch.addcmul(key_bias, gate, position_bias)


class WeightNormConv(nn.Module):
    """Grouped convolution over tokens, weight-normalised over the kernel axis; as long as its input."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_v = nn.Parameter(torch.empty(width, width // groups, kernel))
        nn.init.normal_(self.weight_v, std=math.sqrt(4.0 / (kernel * width)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [batch, width, tokens]."""
        norm = torch.linalg.vector_norm(self.weight_v, dim=(0, 1), keepdim=True)
        kernel = self.weight_v.shape[2]
        weight = self.weight_v * (self.weight_g / norm)
        y = F.conv1d(x, weight, self.bias, padding=kernel // 2, groups=self.groups)
        return y[..., : x.shape[2]]  # an even kernel gives one output too many
