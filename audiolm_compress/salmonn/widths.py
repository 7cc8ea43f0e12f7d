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
from audiolm_compress.salmonn.structure import Structure

_LLM_HEADS = ("num_attention_heads", "num_key_value_heads")


def head_dim(model: Structure, part: str) -> int:
    """Width of an attention head of a part; in an LLM of query, key and value heads alike."""
    if part == "audio_encoder":
        assert model.audio_encoder is not None
        return model.audio_encoder.config.head_dim
    attention: Any = model.layers(part)[0].self_attn
    return attention.head_dim


def set_widths(
    model: Structure, part: str, *, ffn: int | None = None, kept_heads: Sequence[int] | None = None
) -> None:
    """Note how wide the Linears of a part have become.

    Args:
        model: its Linears are cut already; what else has one entry a head is cut here.
        part: ``speech_encoder``, ``audio_encoder`` or ``llm``.
        ffn: FFN channels of every layer; None leaves the number as it is.
        kept_heads: which heads there still are, of an LLM the key and value heads, each of which keeps as
            many query heads as before. Where heads differ by layer only their number counts.
    """
    if part == "speech_encoder":
        _set_speech(model.speech_encoder, ffn, kept_heads)
    elif part == "audio_encoder":
        assert model.audio_encoder is not None
        _set_audio(model.audio_encoder, ffn, kept_heads)
    else:
        _set_llm(model.causal_lm, ffn, kept_heads)


def _set_speech(encoder: WhisperEncoder, ffn: int | None, kept: Sequence[int] | None) -> None:
    if ffn is not None:
        encoder.config.encoder_ffn_dim = ffn
    if kept is not None:
        for layer in encoder.layers:
            layer.self_attn.num_heads = len(kept)


def _set_audio(encoder: Beats, ffn: int | None, kept: Sequence[int] | None) -> None:
    config = encoder.config
    if ffn is not None:
        config = replace(config, encoder_ffn_embed_dim=ffn)
    if kept is not None:
        config = replace(config, encoder_head_dim=config.head_dim, encoder_attention_heads=len(kept))
        index = torch.tensor(list(kept), device=next(encoder.parameters()).device)
        table = encoder.encoder.relative_attention_bias
        if table is not None:
            table.weight = _columns(table.weight, index)
            table.embedding_dim = len(kept)
        for layer in encoder.encoder.layers:
            assert isinstance(layer, BeatsLayer)
            layer.self_attn.heads = len(kept)
            if layer.self_attn.gated:
                layer.self_attn.grep_a = _columns(layer.self_attn.grep_a, index)
    for module in encoder.modules():
        if isinstance(module, Beats | BeatsEncoder | BeatsLayer):
            module.config = config


def _columns(parameter: torch.Tensor, index: torch.Tensor) -> nn.Parameter:
    """Entries ``index`` of the second dimension."""
    return nn.Parameter(parameter.detach()[:, index], requires_grad=parameter.requires_grad)


def _set_llm(llm: PreTrainedModel, ffn: int | None, kept: Sequence[int] | None) -> None:
    config = llm.config
    layers = llm.base_model.layers
    if ffn is not None:
        config.intermediate_size = ffn
        for layer in layers:
            layer.mlp.intermediate_size = ffn
    if kept is not None:
        share = config.num_attention_heads // config.num_key_value_heads
        config.head_dim = layers[0].self_attn.head_dim  # no longer follows from the width
        config.num_key_value_heads = len(kept)
        config.num_attention_heads = len(kept) * share


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
        attention.num_heads = heads


def llm_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of an LLM, also with a number of heads that does not divide its width."""
    if "head_dim" not in values:
        return AutoConfig.for_model(**values)
    heads = {name: values[name] for name in _LLM_HEADS if name in values}
    config = AutoConfig.for_model(**{**values, **dict.fromkeys(heads, 1)})
    for name, number in heads.items():
        setattr(config, name, number)
    return config
