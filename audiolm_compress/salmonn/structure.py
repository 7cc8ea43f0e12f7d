"""What a model is made of: its parts, and the edits that change which modules those are.

Every edit is noted (``replaced``, the configs of the parts), so that ``store.py`` can build the edited model
again without the checkpoint that it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.errors import PassError
from audiolm_compress.quantization.adapted import AdaptedLinear
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.embedding import QuantizedEmbedding, TiedHead
from audiolm_compress.quantization.linear import QuantizedLinear
from audiolm_compress.quantization.modules import module_bytes, tie_heads
from audiolm_compress.runtime.engine import forget
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

    def adapted(self) -> dict[str, AdaptedLinear]:
        """Full name -> layer that an adapter is kept beside; the LLM's own LoRA is not among them."""
        return {name: layer for name, layer in self.named_modules() if isinstance(layer, AdaptedLinear)}

    def fold_adapters(self) -> int:
        """Fold the adapters of ``adapted`` into plain weights beneath; returns how many, the others stay."""
        layers = {name: layer for name, layer in self.adapted().items() if layer.foldable}
        for name, layer in layers.items():
            self.set_submodule(name, layer.folded())
            del self.replaced[name]
        forget(self.causal_lm)
        return len(layers)

    def merge_lora(self) -> int:
        """Fold the LLM's LoRA factors into the weights they adapt; returns how many were folded.

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
                    f"put merge_lora before the pass that replaces it"
                )
        forget(self.causal_lm)
        self.llm = self.llm.merge_and_unload()
        for head in [module for module in self.modules() if isinstance(module, TiedHead)]:
            head.embedding_name = _unwrapped(head.embedding_name)
        names = [_unwrapped(name) for name in self.replaced]
        self.replaced = {name: self.get_submodule(name).spec() for name in names}  # type: ignore[operator]  # as below
        return len(adapted)

    def replace_module(self, name: str, module: nn.Module) -> None:
        """Put ``module`` in the place of another, and note how to build it again.

        Args:
            name: such as ``llm.model.layers.0.mlp.up_proj``.
            module: a ``ReplacedModule``.
        """
        forget(self.causal_lm)
        self.set_submodule(name, module)
        self.replaced[name] = module.spec()  # type: ignore[operator]  # nn.Module types every attribute as a module

    def tie_head(self) -> None:
        """Let the head share the embedding's weights again, where it did, once these have been replaced."""
        if isinstance(self.causal_lm.get_output_embeddings(), TiedHead):
            tie_heads(self)
        else:
            self.causal_lm.tie_weights()

    def set_audio_encoder(self, encoder: Beats | None) -> None:
        """Put another BEATs, without replaced modules, or none in the place of the one there is."""
        self.audio_encoder = encoder
        kept = {name: spec for name, spec in self.replaced.items() if not name.startswith("audio_encoder.")}
        self.replaced = kept

    def layers(self, part: str) -> nn.ModuleList:
        """The Transformer layers of a part in the order of calling.

        Raises:
            PassError: the model has no such part, or layers of this part cannot be dropped.
        """
        if part not in self.parts():
            raise PassError(f"layers of {part} were asked for; the model has {', '.join(self.parts())}")
        if part == "connector":
            raise PassError("the connector's layers cannot be dropped: its Q-Former needs all of them")
        if part == "audio_encoder":
            assert self.audio_encoder is not None
            return self.audio_encoder.encoder.layers
        return self.speech_encoder.layers if part == "speech_encoder" else self.causal_lm.base_model.layers

    def keep_layers(self, part: str, indices: Sequence[int]) -> None:
        """Keep some layers of a part, with their weights and adapters, and drop the others.

        The part's config follows, per-layer entries such as Gemma-2's alternating ``layer_types`` included; a
        kept layer gets the place in the KV cache of its new position; names in ``replaced`` are renumbered.
        BEATs' layers keep the residual scale of the depth that they were trained with.

        Args:
            part: ``speech_encoder``, ``audio_encoder`` or ``llm``.
            indices: of the kept layers, ascending.

        Raises:
            PassError: no such part or layer, none kept, or not in ascending order.
        """
        stack, kept = self.layers(part), list(indices)
        if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(stack):
            raise PassError(
                f"{part} has layers 0 to {len(stack) - 1}; asked to keep {kept}; "
                f"name at least one of them, in ascending order"
            )
        forget(self.causal_lm)
        name = next(name for name, module in self.named_modules() if module is stack)
        self.set_submodule(name, nn.ModuleList(stack[index] for index in kept))
        for position, index in enumerate(kept):
            for module in stack[index].modules():
                if isinstance(getattr(module, "layer_idx", None), int):
                    module.layer_idx = position  # type: ignore[assignment]  # as replace_module
        self.replaced = {
            new: spec for old, spec in self.replaced.items() if (new := _renumbered(old, name, kept))
        }
        if part == "audio_encoder":
            assert self.audio_encoder is not None
            self.audio_encoder.note_layers(len(kept))
        elif part == "speech_encoder":
            self.speech_encoder.config.encoder_layers = len(kept)
        else:
            _keep_in_config(self.causal_lm.config, kept)

    def packed_dtypes(self, part: str) -> Counter[torch.dtype]:
        """Floating type -> how many packed layers of a part have it, which ``cast`` cannot change."""
        packed = (QuantizedLinear, Int8Linear, QuantizedEmbedding)
        layers = [module for module in self.parts()[part].modules() if isinstance(module, packed)]
        return Counter(layer.get_buffer("scales").dtype for layer in layers)

    def cast(self, dtype: torch.dtype, parts: Sequence[str] = PARTS) -> int:
        """Change the dtype of the parameters of ``parts``; returns how many changed.

        Buffers keep theirs: the scales of packed weights (see ``packed_dtypes``), and computed ones such as
        rotary frequencies, which lose accuracy in 16 bit.
        """
        changed = 0
        for name, part in self.parts().items():
            for parameter in part.parameters() if name in parts else ():
                if parameter.is_floating_point() and parameter.dtype != dtype:
                    parameter.data = parameter.data.to(dtype)
                    changed += 1
        return changed

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of parameters and buffers by part; storage that two tensors share counts once."""
        seen: set[int] = set()
        return {name: module_bytes(part, seen) for name, part in self.parts().items()}


def _unwrapped(name: str) -> str:
    """The name of a module of the LLM once no LoRA is wrapped around it."""
    return name.replace("llm.base_model.model.", "llm.", 1)


def _renumbered(name: str, stack: str, kept: Sequence[int]) -> str | None:
    """The new name of a module once only ``kept`` of ``stack`` are left; None if it goes with its layer."""
    if not name.startswith(f"{stack}."):
        return name
    index, _, rest = name.removeprefix(f"{stack}.").partition(".")
    return f"{stack}.{kept.index(int(index))}.{rest}" if int(index) in kept else None


def _keep_in_config(config: Any, kept: Sequence[int]) -> None:
    """Shorten the depth of an LLM's config, and every entry that holds one value a layer."""
    depth = config.num_hidden_layers
    per_layer = {
        name: value
        for name, value in config.to_dict().items()
        if "layer" in name and isinstance(value, list | tuple) and len(value) == depth
    }
    for name, value in per_layer.items():
        setattr(config, name, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)
