"""Which LLMs the decoder knows, and where in them it finds what it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

FAMILIES = ("Gemma2", "Llama", "Qwen2")
_ROPE_OF_LENGTH = ("dynamic", "longrope")  # their frequencies change with the length of the text
Module = Callable[[Tensor], Tensor]


def why_not(llm: PreTrainedModel) -> str:
    """Why the decoder cannot read with ``llm``; "" if it can."""
    name, config = type(llm).__name__, llm.config
    family = name.removesuffix("ForCausalLM")
    if family not in FAMILIES or name == family:
        return f"{name} is none of {', '.join(f'{family}ForCausalLM' for family in FAMILIES)}"
    model: Any = llm.model
    for layer in model.layers:
        kinds = [type(part).__name__ for part in (layer, layer.self_attn, layer.mlp)]
        if kinds != [f"{family}DecoderLayer", f"{family}Attention", f"{family}MLP"]:
            return f"{name} has a layer made of {', '.join(kinds)}"
    rope = getattr(model.rotary_emb, "rope_type", "default")
    if rope in _ROPE_OF_LENGTH:
        return f"rotary embedding of type {rope!r}"
    if config._attn_implementation not in ("eager", "sdpa"):
        return f"attention implementation {config._attn_implementation!r}"
    if getattr(config, "use_bidirectional_attention", None):
        return "bidirectional attention"
    if family == "Gemma2" and getattr(model.embed_tokens, "scalar_embed_scale", 1.0) == 1.0:
        return "embeddings are scaled outside of the embedding"
    return ""


class Norm:
    """A root mean square norm with its weight ready; rounds where transformers' does.

    Llama and Qwen2 round to the dtype of the states before the weight is multiplied, Gemma-2 afterwards, and
    its weight is stored less 1.
    """

    __slots__ = ("eps", "late", "shape", "weight")

    def __init__(self, module: Any, *, shifted: bool) -> None:
        weight: Tensor = module.weight.detach()
        self.weight = weight.float() + 1.0 if shifted else weight
        self.shape = list(weight.shape)
        self.eps = float(module.eps if shifted else module.variance_epsilon)
        self.late = shifted

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [..., width] -> the same shape and dtype."""
        if self.late or x.dtype == torch.float32:
            return torch.rms_norm(x.float(), self.shape, self.weight, self.eps).to(x.dtype)
        return torch.rms_norm(x.float(), self.shape, None, self.eps).to(x.dtype) * self.weight


class Layer:
    """One decoder layer: its modules, called as they are, and what its attention must know.

    Attributes:
        query, key, value, output: projections of the attention.
        gate, up, down, act: of the gated feed-forward.
        before_attention, after_attention, before_mlp, after_mlp: norms; the two behind are Gemma-2's alone.
        head_dim: width of a head.
        scale: of the attention's scores.
        window: positions that a query sees, itself included; None for all.
        softcap: of the attention's scores; None without.
        fused: whether transformers computes the attention by ``scaled_dot_product_attention``.
    """

    __slots__ = (
        "act",
        "after_attention",
        "after_mlp",
        "before_attention",
        "before_mlp",
        "down",
        "folded",
        "fused",
        "gate",
        "head_dim",
        "key",
        "output",
        "query",
        "scale",
        "softcap",
        "up",
        "value",
        "window",
    )

    def __init__(self, layer: Any, config: Any, kind: str) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.query: Module = attention.q_proj
        self.key: Module = attention.k_proj
        self.value: Module = attention.v_proj
        self.output: Module = attention.o_proj
        self.gate: Module = mlp.gate_proj
        self.up: Module = mlp.up_proj
        self.down: Module = mlp.down_proj
        self.act: Module = mlp.act_fn
        gemma = type(layer).__name__.startswith("Gemma2")
        behind_attention = layer.post_attention_layernorm
        self.before_attention = Norm(layer.input_layernorm, shifted=gemma)
        self.before_mlp = Norm(layer.pre_feedforward_layernorm if gemma else behind_attention, shifted=gemma)
        self.after_attention = Norm(behind_attention, shifted=True) if gemma else None
        self.after_mlp = Norm(layer.post_feedforward_layernorm, shifted=True) if gemma else None
        self.head_dim: int = attention.head_dim
        self.scale: float = attention.scaling
        self.window: int | None = config.sliding_window if kind == "sliding_attention" else None
        self.softcap: float | None = getattr(attention, "attn_logit_softcapping", None)
        self.fused = config._attn_implementation == "sdpa"
        # A power of two only moves the exponent, so it may be multiplied anywhere without another rounding.
        self.folded = self.softcap is not None and math.frexp(self.scale)[0] == 0.5


def layers_of(llm: PreTrainedModel) -> list[Layer]:
    """The layers that transformers' forward runs, in order."""
    config, model = llm.config, llm.model
    layers: list[nn.Module] = list(model.layers)[: config.num_hidden_layers]
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(layers)
    return [Layer(layer, config, kind) for layer, kind in zip(layers, kinds, strict=False)]
