"""Memory beside the weights: the largest intermediate results of hearing a clip and reading its prompt.

Phases follow each other and free what they needed, so the peak is that of the greediest one:

* Whisper: hidden states, and in every layer the widened ones of the feed-forward; if attention is written out
  (``scores``), weights for every pair of frames and head before and after the softmax. At 1500 frames and 20
  heads in float32 these are 0.34 GiB, more than all else.
* BEATs: the gated bias for every pair of patches and head, which no fused kernel can avoid.
* Prefill: hidden states, the feed-forward, the cache, and logits of the positions asked for. Upstream asks
  for all of them, in 16 bit and again in float32: with 256k tokens 1.5 MB a position.

An estimate: allocators round up, and fused kernels need less than what is counted here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from audiolm_compress.planning.layers import Layer
from audiolm_compress.planning.work import Clip, attention_widths, cache_bytes_per_token
from audiolm_compress.salmonn.model import Salmonn

_LIVE_STATES = 4  # residual, normed, and two results at a time


def peak_activations(
    model: Salmonn, layers: Sequence[Layer], clip: Clip, *, scores: bool = False, all_logits: bool = False
) -> int:
    """Bytes of intermediate results at the worst moment before the first token.

    Args:
        model: an outline or a real model.
        layers: of ``model``.
        clip: how long its inputs are.
        scores: whether Whisper's attention is written out, as transformers did before fused attention; this
            package uses fused attention there.
        all_logits: whether logits of every position of the prompt are computed, in the LLM's type and in
            float32, as upstream does; this package computes those of the last one.
    """
    phases = [_speech(model, layers, clip, scores), _prefill(model, layers, clip, all_logits)]
    if model.audio_encoder is not None:
        config = model.audio_encoder.config
        size = _item_size(layers, "audio_encoder")
        pairs = config.encoder_attention_heads * clip.sound_tokens**2
        states = clip.sound_tokens * _widest(layers, "audio_encoder")
        phases.append((3 * pairs + 2 * states) * size)
    return max(phases)


def _speech(model: Salmonn, layers: Sequence[Layer], clip: Clip, scores: bool) -> int:
    size = _item_size(layers, "speech_encoder")
    width = model.speech_encoder.config.d_model
    states = clip.speech_frames * (_LIVE_STATES * width + 2 * _widest(layers, "speech_encoder"))
    heads = max(layer.self_attn.num_heads for layer in model.speech_encoder.layers)
    return size * (states + (2 * heads * clip.speech_frames**2 if scores else 0))


def _prefill(model: Salmonn, layers: Sequence[Layer], clip: Clip, all_logits: bool) -> int:
    size = _item_size(layers, "llm")
    config = model.causal_lm.config
    states = clip.prompt * (_LIVE_STATES * config.hidden_size + 3 * _widest(layers, "llm"))
    head = model.causal_lm.get_output_embeddings()
    vocabulary = next(
        layer.shape[0]
        for layer in layers
        if layer.kind == "linear" and model.get_submodule(layer.name) is head
    )
    positions = clip.prompt if all_logits else 1
    logits = positions * vocabulary * (size + torch.float32.itemsize)
    return size * states + logits + cache_bytes_per_token(layers) * clip.prompt


def _widest(layers: Sequence[Layer], part: str) -> int:
    """The widest result of a linear layer in a part, its vocabulary apart."""
    heads = {layer.name for layer in layers if layer.reads or layer.name.endswith("lm_head")}
    attention = attention_widths(layers)
    return max(
        [
            layer.shape[0]
            for layer in layers
            if layer.part == part and layer.kind == "linear" and layer.name not in heads
        ]
        + [width for name, width in attention.items() if name.startswith(part)],
        default=0,
    )


def _item_size(layers: Sequence[Layer], part: str) -> int:
    """Bytes of a number in the type of what most of a part's weights give."""
    counts: dict[torch.dtype, int] = {}
    for layer in layers:
        if layer.part == part:
            counts[layer.floating] = counts.get(layer.floating, 0) + layer.parameters
    return max(counts, key=lambda dtype: counts[dtype]).itemsize
