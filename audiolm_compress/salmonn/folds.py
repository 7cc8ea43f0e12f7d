"""Where a factor per channel can be moved from one operation into the next without changing the function.

The input of a linear layer may be divided by a factor per channel, and its weights multiplied by it, if what
makes that input can absorb the division and **nothing else reads it**. These are all such places:

* a LayerNorm that linear layers alone read: in Whisper's and pre-norm BEATs' blocks, BEATs' patch norm
  before its projection, the connector's two input norms (every layer's cross-attention reads their
  concatenation) and the last norm of the Q-Former before the projection;
* a value projection, since attention mixes positions and never channels: value -> output.

Not among them: post-norm LayerNorms, as in BEATs' published checkpoints and inside the Q-Former, whose output
goes on through a residual branch, and whatever stands behind a GELU (the second feed-forward layers).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from audiolm_compress.salmonn.beats import Beats
from audiolm_compress.salmonn.model import Salmonn


class Fold(NamedTuple):
    """``makers``: LayerNorms or one linear layer, whose outputs, joined, are the input of all ``readers``.

    Both are full names of modules.
    """

    makers: tuple[str, ...]
    readers: tuple[str, ...]


def folds(model: Salmonn) -> list[Fold]:
    """All places of the encoders and the connector, in the order of computation."""
    found = [*_speech(model)]
    if isinstance(model.audio_encoder, Beats):
        found += _audio(model.audio_encoder)
    return [*found, *_connector(model)]


def _speech(model: Salmonn) -> Iterator[Fold]:
    for index in range(len(model.speech_encoder.layers)):
        yield from _pre_norm(f"speech_encoder.layers.{index}")
        yield _values(f"speech_encoder.layers.{index}.self_attn", "v_proj", "out_proj")


def _audio(beats: Beats) -> Iterator[Fold]:
    if beats.post_extract_proj is not None:
        yield Fold(("audio_encoder.layer_norm",), ("audio_encoder.post_extract_proj",))
    for index in range(len(beats.encoder.layers)):
        if beats.config.layer_norm_first:
            yield from _pre_norm(f"audio_encoder.encoder.layers.{index}")
        yield _values(f"audio_encoder.encoder.layers.{index}.self_attn", "v_proj", "out_proj")


def _connector(model: Salmonn) -> Iterator[Fold]:
    layers = [f"connector.qformer.layers.{index}" for index in range(len(model.connector.qformer.layers))]
    norms = ("ln_speech",) if model.connector.ln_audio is None else ("ln_speech", "ln_audio")
    readers = tuple(f"{layer}.cross_attention.{name}" for layer in layers for name in ("key", "value"))
    yield Fold(tuple(f"connector.{norm}" for norm in norms), readers)
    for layer in layers:
        yield _values(f"{layer}.self_attention", "value", "output")
        yield _values(f"{layer}.cross_attention", "value", "output")
    yield Fold((f"{layers[-1]}.output_norm",), ("connector.projection",))


def _pre_norm(layer: str) -> Iterator[Fold]:
    readers = tuple(f"{layer}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj"))
    yield Fold((f"{layer}.self_attn_layer_norm",), readers)
    yield Fold((f"{layer}.final_layer_norm",), (f"{layer}.fc1",))


def _values(attention: str, value: str, output: str) -> Fold:
    return Fold((f"{attention}.{value}",), (f"{attention}.{output}",))
