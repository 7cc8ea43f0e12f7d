"""Trained tensors under upstream's names: the other direction of ``checkpoint.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from audiolm_compress.salmonn.model import Salmonn

_LAYER = r"speech_Qformer.bert.encoder.layer.\1"
# Our names -> upstream's, where {family} is gemma or llama. The first pattern that matches decides.
NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^connector\.qformer\.query_tokens$", "speech_query_tokens"),
        (r"^connector\.(ln_speech|ln_audio)\.", r"\1."),
        (r"^connector\.projection\.", "speech_{family}_proj."),
        (r"^connector\.qformer\.query_norm\.", "speech_Qformer.bert.embeddings.LayerNorm."),
        (
            r"^connector\.qformer\.layers\.(\d+)\.self_attention\.output\.",
            f"{_LAYER}.attention.output.dense.",
        ),
        (r"^connector\.qformer\.layers\.(\d+)\.self_attention\.", f"{_LAYER}.attention.self."),
        (r"^connector\.qformer\.layers\.(\d+)\.self_norm\.", f"{_LAYER}.attention.output.LayerNorm."),
        (
            r"^connector\.qformer\.layers\.(\d+)\.cross_attention\.output\.",
            f"{_LAYER}.crossattention.output.dense.",
        ),
        (r"^connector\.qformer\.layers\.(\d+)\.cross_attention\.", f"{_LAYER}.crossattention.self."),
        (r"^connector\.qformer\.layers\.(\d+)\.cross_norm\.", f"{_LAYER}.crossattention.output.LayerNorm."),
        (r"^connector\.qformer\.layers\.(\d+)\.intermediate\.", f"{_LAYER}.intermediate_query.dense."),
        (r"^connector\.qformer\.layers\.(\d+)\.output\.", f"{_LAYER}.output_query.dense."),
        (r"^connector\.qformer\.layers\.(\d+)\.output_norm\.", f"{_LAYER}.output_query.LayerNorm."),
        (r"^llm\.", "{family}_model."),
        (
            r"^audio_encoder\.encoder\.relative_attention_bias\.",
            "beats.encoder.layers.0.self_attn.relative_attention_bias.",
        ),
        (r"^audio_encoder\.", "beats."),
    )
)


def upstream_name(name: str, family: str) -> str:
    """Upstream's name of one of our parameters; ``family`` is ``gemma`` or ``llama``.

    >>> upstream_name("connector.projection.weight", "llama")
    'speech_llama_proj.weight'
    """
    for pattern, replacement in NAMES:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed.format(family=family)
    return name


def upstream_family(section: Mapping[str, Any]) -> str:
    """Which of upstream's variants a section ``model`` belongs to."""
    return "gemma" if "gemma_path" in section else "llama"


def trained_tensors(model: Salmonn, family: str) -> dict[str, Tensor]:
    """What upstream's ``.pth`` keeps of a model in training: the parameters that require gradients.

    Upstream's own files hold constants and second names of frozen tensors besides, and for tied LLMs the
    whole head; neither its loader nor ours needs them.
    """
    return {
        upstream_name(name, family): parameter.detach().cpu()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
