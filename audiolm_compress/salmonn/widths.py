"""Inner widths of a part: FFN channels and attention heads, equal in all its layers.

The config of a part says them wherever it can: Whisper's ``encoder_ffn_dim``, BEATs'
``encoder_ffn_embed_dim``, ``encoder_attention_heads`` and ``encoder_head_dim``, an LLM's
``intermediate_size``, ``num_attention_heads``, ``num_key_value_heads`` and ``head_dim``. Two constructors of
transformers insist that the width is a multiple of the number of heads, although their forward does not:

* Whisper's attention has no other head width than width / heads. Its config keeps the original number of
  heads, from which the head width follows; the number there is stands in our ``config.json`` under
  ``widths`` (:func:`describe_widths`), and :func:`narrow_speech_heads` applies it.
* Configs of LLMs check it when they are made, not when they are changed: :func:`llm_config`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.salmonn.beats import Beats, BeatsEncoder
from audiolm_compress.salmonn.beats_layers import BeatsLayer

_LLM_HEADS = ("num_attention_heads", "num_key_value_heads")


def set_speech_widths(encoder: WhisperEncoder, *, ffn: int | None = None, heads: int | None = None) -> None:
    """Note the widths that the Linears of Whisper's encoder have now; None leaves a number as it is."""
    if ffn is not None:
        encoder.config.encoder_ffn_dim = ffn
    if heads is not None:
        for layer in encoder.layers:
            layer.self_attn.num_heads = heads


def set_audio_widths(
    encoder: Beats, *, ffn: int | None = None, kept_heads: Sequence[int] | None = None
) -> None:
    """Note the widths that the Linears of BEATs have now; None leaves a number as it is.

    What has one entry a head, gates and relative-position table, is reduced to ``kept_heads``: the table
    belongs to all layers, so all layers keep the same heads.
    """
    config = encoder.config
    if ffn is not None:
        config = replace(config, encoder_ffn_embed_dim=ffn)
    if kept_heads is not None:
        config = replace(config, encoder_head_dim=config.head_dim, encoder_attention_heads=len(kept_heads))
        kept = torch.tensor(list(kept_heads), device=next(encoder.parameters()).device)
        table = encoder.encoder.relative_attention_bias
        if table is not None:
            table.weight = nn.Parameter(
                table.weight.detach()[:, kept], requires_grad=table.weight.requires_grad
            )
            table.embedding_dim = len(kept_heads)
        for layer in encoder.encoder.layers:
            assert isinstance(layer, BeatsLayer)
            attention = layer.self_attn
            attention.heads = len(kept_heads)
            if attention.gated:
                gate = attention.grep_a
                attention.grep_a = nn.Parameter(gate.detach()[:, kept], requires_grad=gate.requires_grad)
    for module in encoder.modules():
        if isinstance(module, Beats | BeatsEncoder | BeatsLayer):
            module.config = config


def set_llm_widths(llm: PreTrainedModel, *, ffn: int | None = None, kv_heads: int | None = None) -> None:
    """Note the widths that the Linears of an LLM have now; None leaves a number as it is.

    Every key-value head keeps as many query heads as before.
    """
    config = llm.config
    layers = llm.get_decoder().layers
    if ffn is not None:
        config.intermediate_size = ffn
        for layer in layers:
            layer.mlp.intermediate_size = ffn
    if kv_heads is not None:
        share = config.num_attention_heads // config.num_key_value_heads
        config.head_dim = layers[0].self_attn.head_dim  # from here on it no longer follows from the width
        config.num_key_value_heads = kv_heads
        config.num_attention_heads = kv_heads * share


def describe_widths(encoder: WhisperEncoder) -> dict[str, int]:
    """What Whisper's config cannot say: ``{"speech_heads": n}`` if it has fewer heads than there."""
    heads = {layer.self_attn.num_heads for layer in encoder.layers} - {encoder.config.encoder_attention_heads}
    assert len(heads) <= 1, "all layers have the same number of heads"
    return {"speech_heads": heads.pop()} if heads else {}


def narrow_speech_heads(encoder: WhisperEncoder, heads: int) -> None:
    """Give an empty encoder, as its config describes it, fewer heads of the same width."""
    for layer in encoder.layers:
        attention = layer.self_attn
        inner = heads * attention.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            linear = getattr(attention, name)
            setattr(attention, name, nn.Linear(linear.in_features, inner, bias=linear.bias is not None))
        attention.out_proj = nn.Linear(inner, attention.out_proj.out_features)
    set_speech_widths(encoder, heads=heads)


def llm_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of an LLM, also with a number of heads that does not divide its width."""
    if "head_dim" not in values:
        return AutoConfig.for_model(**values)
    heads = {name: values[name] for name in _LLM_HEADS if name in values}
    config = AutoConfig.for_model(**{**values, **dict.fromkeys(heads, 1)})
    for name, number in heads.items():
        setattr(config, name, number)
    return config
