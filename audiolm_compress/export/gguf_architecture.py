"""What llama.cpp computes for an architecture, and how an LLM of transformers is said in its terms.

llama.cpp has an architecture's function in code; a file gives sizes and constants. So every setting of the
config that changes the function must be one that the code has, or is refused here by name.

* ``llama``: its rotary embedding turns neighbours (2i, 2i + 1), transformers' turns halves (i, i + d/2). Rows
  of query and key are stored in the order that makes both the same. Llama 3's scaling of frequencies is
  a tensor of factors, ``rope_freqs``.
* ``gemma2``: its norms multiply by the weight, transformers' by one more, so one is added. Head and embedding
  are one matrix; even layers see a window, odd ones all; queries are scaled by the width of a head.
* ``qwen2``: as transformers has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audiolm_compress.errors import AudioLMError

KNOWN = ("llama", "gemma2", "qwen2")
_ACTIVATION = {"llama": "silu", "gemma2": "gelu_pytorch_tanh", "qwen2": "silu"}
_GEMMA2_27B_LAYERS = 46  # by which llama.cpp knows that model, whose queries are scaled otherwise


class Architecture(NamedTuple):
    """An LLM as llama.cpp takes it.

    Attributes:
        name: ``general.architecture``.
        layers: blocks.
        heads: query heads.
        kv_heads: key and value heads.
        metadata: by key, without the architecture's prefix.
        rope_factors: float32 [head width / 2] by which frequencies are divided; None if by 1.
        notes: what a user must know.
    """

    name: str
    layers: int
    heads: int
    kv_heads: int
    metadata: dict[str, int | float | str]
    rope_factors: Tensor | None
    notes: tuple[str, ...]

    def stored(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor as llama.cpp wants it, by its name in transformers."""
        if self.name == "gemma2" and name.endswith("norm.weight"):
            return tensor.float() + 1
        if self.name == "llama" and ".self_attn.q_proj." in name:
            return interleaved(tensor, self.heads)
        if self.name == "llama" and ".self_attn.k_proj." in name:
            return interleaved(tensor, self.kv_heads)
        return tensor


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows [heads * d, ...] with row i + d/2 of each head behind its row i."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(rows.shape)


def llama3_factors(scaling: Mapping[str, Any], width: int) -> Tensor:
    """By what Llama 3.1 divides the frequencies of a head of ``width``, float32 [width / 2].

    Waves longer than the original context over ``low_freq_factor`` are slowed by ``factor``, those shorter
    than it over ``high_freq_factor`` are not, and between the two the frequency is interpolated.
    """
    waves = 2 * math.pi * scaling["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    context = scaling["original_max_position_embeddings"]
    kept = ((context / waves - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - kept) / factor + kept)).float()


def architecture(config: Any) -> Architecture:
    """The architecture of an LLM with this config of transformers.

    Raises:
        AudioLMError: llama.cpp has no such architecture, or another function for it.
    """
    kind = config.model_type
    if kind not in KNOWN:
        raise AudioLMError(
            f"--to gguf: the LLM is of type {kind}; written are {', '.join(KNOWN)}: export --to safetensors16"
        )
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    metadata: dict[str, int | float | str] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": width,
        "vocab_size": config.vocab_size,
    }
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    _same(kind, "activation", activation, _ACTIVATION[kind])
    factors = _rope(kind, config, width, metadata)
    notes: list[str] = []
    if kind == "gemma2":
        notes += _gemma2(config, width, metadata)
    elif set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        raise AudioLMError(f"--to gguf: layers see a sliding window, which llama.cpp's {kind} does not have")
    heads = config.num_attention_heads, config.num_key_value_heads
    return Architecture(kind, config.num_hidden_layers, *heads, metadata, factors, tuple(notes))


def _rope(kind: str, config: Any, width: int, metadata: dict[str, int | float | str]) -> Tensor | None:
    """Adds the rotary embedding's metadata; returns the factors of its frequencies."""
    rope = config.rope_parameters
    metadata["rope.freq_base"] = float(rope["rope_theta"])
    _same(kind, "partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), 1.0)
    scaling = rope.get("rope_type", "default")
    if scaling == "linear":
        metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    elif scaling == "llama3" and kind == "llama":
        return llama3_factors(rope, width)
    elif scaling != "default":
        raise AudioLMError(
            f"--to gguf: {kind} with rotary positions of type {scaling}; written are default, linear and, "
            "of llama, llama3"
        )
    return None


def _gemma2(config: Any, width: int, metadata: dict[str, int | float | str]) -> list[str]:
    """Adds what Gemma 2 has of its own."""
    layers, window = config.num_hidden_layers, config.sliding_window
    scaled = config.hidden_size // config.num_attention_heads if layers == _GEMMA2_27B_LAYERS else width
    _same("gemma2", "query_pre_attn_scalar", config.query_pre_attn_scalar, scaled)
    _same("gemma2", "use_bidirectional_attention", bool(config.use_bidirectional_attention), False)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, name) is None:
            raise AudioLMError(f"--to gguf: {name} is off, and llama.cpp's gemma2 always caps")
        metadata[name] = float(getattr(config, name))
    metadata["attention.sliding_window"] = window
    expected = [("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)]
    if list(config.layer_types) == expected:
        return []
    longest = min(window, config.max_position_embeddings)
    metadata["context_length"] = longest
    return [
        f"sliding and full attention do not alternate, as llama.cpp lets them: up to {longest} tokens, the "
        "context that the file gives, they are the same; do not ask for more"
    ]


def _same(kind: str, name: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise AudioLMError(f"--to gguf: {name} is {found}, and llama.cpp's {kind} computes with {expected}")
