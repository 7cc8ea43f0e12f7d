"""LoRA adapters on the LLM, by peft."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel


def add_lora(
    llm: PreTrainedModel,
    *,
    r: int,
    lora_alpha: int,
    lora_dropout: float,
    target_modules: Sequence[str],
    empty: bool = False,
) -> PeftModel:
    """Wrap ``llm`` with fresh adapters of rank ``r`` on the Linears named in ``target_modules``.

    ``empty`` leaves their weights on the meta device, to be filled from a file.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(target_modules),
    )
    with warnings.catch_warnings():
        # peft asks for a property that transformers 5.23 has renamed; nothing that a user could change.
        warnings.filterwarnings(
            "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
        )
        model = get_peft_model(llm, config, low_cpu_mem_usage=empty)
    assert isinstance(model, PeftModel)
    return model


def describe_lora(llm: Any) -> dict[str, Any] | None:
    """The arguments with which :func:`add_lora` builds equal adapters; None without adapters."""
    if not isinstance(llm, PeftModel):
        return None
    config = llm.peft_config["default"]
    assert isinstance(config, LoraConfig)
    return {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": sorted(config.target_modules or ()),
    }
