"""Trained tensors under upstream's names: the other direction of ``checkpoint.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream_names import upstream_name


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
