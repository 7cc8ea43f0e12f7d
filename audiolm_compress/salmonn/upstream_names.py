"""Upstream's names of tensors and ours: one table, read in both directions."""

from __future__ import annotations

import re

_THEIRS, _OURS = "speech_Qformer.bert.encoder.layer.{layer}.", "connector.qformer.layers.{layer}."
# Beginnings of names, upstream's and ours; the first that fits decides. A family is gemma or llama.
PAIRS = (
    ("speech_query_tokens", "connector.qformer.query_tokens"),
    ("ln_speech.", "connector.ln_speech."),
    ("ln_audio.", "connector.ln_audio."),
    ("speech_{family}_proj.", "connector.projection."),
    ("speech_Qformer.bert.embeddings.LayerNorm.", "connector.qformer.query_norm."),
    (f"{_THEIRS}attention.output.dense.", f"{_OURS}self_attention.output."),
    (f"{_THEIRS}attention.output.LayerNorm.", f"{_OURS}self_norm."),
    (f"{_THEIRS}attention.self.", f"{_OURS}self_attention."),
    (f"{_THEIRS}crossattention.output.dense.", f"{_OURS}cross_attention.output."),
    (f"{_THEIRS}crossattention.output.LayerNorm.", f"{_OURS}cross_norm."),
    (f"{_THEIRS}crossattention.self.", f"{_OURS}cross_attention."),
    (f"{_THEIRS}intermediate_query.dense.", f"{_OURS}intermediate."),
    (f"{_THEIRS}output_query.dense.", f"{_OURS}output."),
    (f"{_THEIRS}output_query.LayerNorm.", f"{_OURS}output_norm."),
    ("{family}_model.", "llm."),
    # The table that upstream repeats under every layer is one parameter of ours.
    (
        "beats.encoder.layers.{layer}.self_attn.relative_attention_bias.",
        "audio_encoder.encoder.relative_attention_bias.",
    ),
    ("beats.", "audio_encoder."),
)


def _pattern(beginning: str) -> re.Pattern[str]:
    text = re.escape(beginning)
    text = text.replace(re.escape("{layer}"), r"(?P<layer>\d+)")
    return re.compile(text.replace(re.escape("{family}"), "(?:gemma|llama)"))


_TO_OURS = tuple((_pattern(theirs), ours) for theirs, ours in PAIRS)
_TO_THEIRS = tuple((_pattern(ours), theirs) for theirs, ours in PAIRS)


def our_name(name: str) -> str:
    """Our name of an upstream tensor; its own name if it is none of upstream's.

    >>> our_name("speech_Qformer.bert.encoder.layer.1.attention.self.query.weight")
    'connector.qformer.layers.1.self_attention.query.weight'
    """
    return _renamed(name, _TO_OURS)


def upstream_name(name: str, family: str) -> str:
    """Upstream's name of one of our parameters; ``family`` is ``gemma`` or ``llama``.

    >>> upstream_name("connector.projection.weight", "llama")
    'speech_llama_proj.weight'
    """
    return _renamed(name, _TO_THEIRS, family)


def _renamed(name: str, table: tuple[tuple[re.Pattern[str], str], ...], family: str = "") -> str:
    for pattern, beginning in table:
        if match := pattern.match(name):
            filled = {"layer": "0", **match.groupdict()}
            return beginning.format(family=family, **filled) + name[match.end() :]
    return name
