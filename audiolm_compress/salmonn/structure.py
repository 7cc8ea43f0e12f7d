"""What a model is made of: its parts, and the edits that change which modules those are.

Every edit is noted (``replaced``, the configs of the parts), so that ``store.py`` can build the edited model
again without the checkpoint that it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.errors import PassError
from audiolm_compress.salmonn.beats import Beats
from audiolm_compress.salmonn.connector import Connector

PARTS = ("speech_encoder", "audio_encoder", "connector", "llm")


class ReplacedModule(Protocol):
    """A module that can say how it is to be built again."""

    def spec(self) -> dict[str, Any]:
        """JSON form from which an equal, empty module is built."""


class Structure(nn.Module):
    """The parts of a model by name, and edits to them."""

    speech_encoder: WhisperEncoder
    audio_encoder: Beats | None
    connector: Connector
    llm: PreTrainedModel | PeftModel

    def __init__(self) -> None:
        super().__init__()
        self.replaced: dict[str, dict[str, Any]] = {}

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The LLM itself, inside its LoRA wrapping if there is one."""
        return self.llm.get_base_model() if isinstance(self.llm, PeftModel) else self.llm

    def parts(self) -> dict[str, nn.Module]:
        """The parts that exist, by name."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    def merge_lora(self) -> int:
        """Fold the LoRA factors into the weights they adapt; returns how many were folded.

        Raises:
            PassError: an adapted weight is quantised already.
        """
        if not isinstance(self.llm, PeftModel):
            return 0
        adapted = [name for name, module in self.llm.named_modules() if hasattr(module, "base_layer")]
        for name in adapted:
            base = self.llm.get_submodule(name).base_layer
            if not isinstance(base, nn.Linear):
                raise PassError(
                    f"merge_lora: {name} is a {type(base).__name__}, which a LoRA cannot be folded into; "
                    f"put merge_lora before the pass that quantises it"
                )
        self.llm = self.llm.merge_and_unload()
        return len(adapted)

    def replace_module(self, name: str, module: nn.Module) -> None:
        """Put ``module`` in the place of another, and note how to build it again.

        Args:
            name: such as ``llm.model.layers.0.mlp.up_proj``.
            module: a ``ReplacedModule``.
        """
        self.set_submodule(name, module)
        self.replaced[name] = module.spec()  # type: ignore[operator]  # nn.Module types every attribute as a module

    def cast(self, dtype: torch.dtype, parts: Sequence[str] = PARTS) -> int:
        """Change the dtype of the parameters of ``parts``; returns how many changed.

        Modules that a pass has replaced keep theirs (the scales of packed weights), and so do computed
        buffers such as rotary frequencies, which lose accuracy in 16 bit.
        """
        packed = {id(p) for name in self.replaced for p in self.get_submodule(name).parameters()}
        changed = 0
        for name, part in self.parts().items():
            for parameter in part.parameters() if name in parts else ():
                if parameter.is_floating_point() and parameter.dtype != dtype and id(parameter) not in packed:
                    parameter.data = parameter.data.to(dtype)
                    changed += 1
        return changed

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of parameters and buffers by part; storage that two tensors share counts once."""
        seen: set[int] = set()
        sizes = {}
        for name, part in self.parts().items():
            sizes[name] = 0
            for tensor in [*part.parameters(), *part.buffers()]:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in seen:
                    seen.add(storage.data_ptr())
                    sizes[name] += storage.nbytes()
        return sizes
