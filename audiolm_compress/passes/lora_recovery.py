"""Win accuracy back with low-rank adapters, on any part, quantised or not.

Of each linear layer y = W x + b only a low-rank change of the weights is trained (LoRA, arXiv:2106.09685):

    y = (W + s B A) x + b        A [rank, in], B [out, rank],   s = alpha / rank

Beneath, W may be packed: the gradient passes through the weights that the integers stand for (QLoRA,
arXiv:2305.14314). ``use_rslora`` takes s = alpha / sqrt(rank), which keeps high ranks learning
(arXiv:2312.03732); ``use_dora`` trains the lengths of the rows beside their direction (arXiv:2402.09353).

What is learned towards is that of all recoveries: the untouched baseline's states, audio tokens and
probabilities, and the reference texts (`passes/recovery.py`).

When it helps: after any pass that cost accuracy, at a fraction of the memory that training all weights takes
and with less danger of forgetting. What it costs: where the weights are dense it is folded into them, and
nothing. Beside packed weights the adapter stays, in the dtype of their scales: bytes, and two thin products a
layer (`quantization/adapted.py`), which is much for a decoder that is bound by its number of operations.
Recovering before quantising, or ``scale_recovery`` after it, costs nothing at inference.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from pydantic import Field, model_validator
from torch import nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.recovery import improvement, recover
from audiolm_compress.passes.recovery_settings import Part, Recovery
from audiolm_compress.passes.targets import matches
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.adapted import AdaptedLinear, adapted_weight, floating_type
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.salmonn.lora import adapt_layer, adapter_factors
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.structure import PARTS

Layer = nn.Linear | PackedLinear[Any]


class LoraRecovery(Recovery):
    """Train low-rank adapters on linear layers of parts of the model."""

    kind: Literal["lora_recovery"] = Field("lora_recovery", alias="pass")
    parts: tuple[Part, ...] = Field(("llm",), min_length=1, description="Parts whose linear layers adapt.")
    rank: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, gt=0, description="An adapter is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the adapters' inputs in training.")
    use_rslora: bool = Field(False, description="Multiply by alpha / sqrt(rank) instead.")
    use_dora: bool = Field(False, description="Train the lengths of the weights' rows, too (DoRA).")
    targets: tuple[str, ...] = Field(
        ("*",), min_length=1, description="Patterns with * and ? of full names of the layers to adapt."
    )
    train_connector: bool = Field(
        False, description="Whether the connector's own dense weights are trained along, all of them."
    )
    merge: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether adapters are folded into the weights: where these are dense (auto), in every "
        "layer, which must all be dense (always), or nowhere (never).",
    )

    @model_validator(mode="after")
    def _connector_learns_in_one_way(self) -> LoraRecovery:
        if self.train_connector and "connector" in self.parts:
            raise ValueError("the connector is trained whole by train_connector; take it from parts")
        return self

    def trained_parts(self) -> set[Part]:
        """The parts with adapters, and the connector where it is trained along."""
        return super().trained_parts() | ({"connector"} if self.train_connector else set())

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Adapt, train, and fold or keep.

        Raises:
            PassError: a part is missing, adapted already or without a layer to adapt, a pattern matches
                nothing, or adapters cannot be merged as asked; or as ``recover``.
        """
        layers, notes = self._targets(model)
        before = sum(model.weight_bytes().values())
        adapters = {
            name: adapt_layer(
                layer,
                rank=self.rank,
                alpha=self.alpha,
                dropout=self.dropout,
                use_rslora=self.use_rslora,
                use_dora=self.use_dora,
                rng=context.rng,
            )
            for name, layer in layers.items()
        }
        for name, adapter in adapters.items():
            model.set_submodule(name, adapter)
        trained = {
            f"{name}.{local}": parameter
            for name, adapter in adapters.items()
            for local, parameter in adapter.named_parameters()
            if local.startswith("lora_")
        }
        if self.train_connector:
            trained |= {f"connector.{name}": p for name, p in model.connector.named_parameters()}
        try:
            recovered = recover(model, context, self, trained)
        finally:
            for name, layer in layers.items():
                model.set_submodule(name, layer)
        used = {name: layer for name, layer in layers.items() if adapter_factors(adapters[name])[1].any()}
        unused = [name for name in layers if name not in used]
        if unused and recovered.changed:
            notes.append(f"{len(unused)} layers left alone, as no loss reaches them: {', '.join(unused)}")
        for name, layer in used.items():
            self._settle(model, name, layer, adapters[name])
        kept = sum(not self._folds(layer) for layer in used.values())
        if kept:
            notes.append(f"{kept} adapters stay beside their layers: two thin products more in each")
        rounded = {str(t).removeprefix("torch.") for t in map(floating_type, used.values()) if t.itemsize < 4}
        if rounded:
            notes.append(
                f"the losses afterwards are those before adapters are rounded to {', '.join(sorted(rounded))}"
            )
        saved = before - sum(model.weight_bytes().values())
        return PassReport(
            changed=recovered.changed,
            summary=f"adapters of rank {self.rank} on {len(used)} layers, {len(used) - kept} folded in, "
            f"{kept} kept; {improvement(recovered)}",
            figures={
                **recovered.figures,
                "adapters": len(used),
                "kept_adapters": kept,
                "saved_bytes": saved,
            },
            modules=recovered.rows,
            notes=[*notes, *recovered.notes],
        )

    def predict(self, sketch: Sketch) -> None:
        """Adapters that stay take bytes; time is the teacher's look at the clips and the training."""
        layers, _ = self._targets(sketch.model)
        self.predict_training(sketch)
        for name, layer in layers.items():
            if not self._folds(layer):
                sketch.model.replace_module(name, AdaptedLinear(layer, self.rank, floating_type(layer)))

    def rehearsed(self, model: Salmonn) -> Pass:
        """Ranks that leave something to adapt in narrow layers."""
        return super().rehearsed(model).model_copy(update={"rank": min(self.rank, 2)})

    def _folds(self, layer: nn.Module) -> bool:
        return self.merge != "never" and isinstance(layer, nn.Linear)

    @torch.no_grad()
    def _settle(self, model: Salmonn, name: str, layer: Layer, adapter: LoraLinear) -> None:
        """Fold what was trained into ``layer``, or put the two side by side in its place."""
        a, b, magnitude = adapter_factors(adapter)
        if self._folds(layer):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(adapted_weight(layer.weight, a, b, magnitude))
        else:
            model.replace_module(name, AdaptedLinear.from_factors(layer, a, b, magnitude))

    def _targets(self, model: Salmonn) -> tuple[dict[str, Layer], list[str]]:
        """Full name -> layer to adapt, and notes on what is left out."""
        found = self._linears(model)
        for pattern in self.targets:
            if not any(matches(name, pattern) for name in found):
                raise PassError(
                    f"lora_recovery: the target {pattern!r} matches no linear layer of "
                    f"{', '.join(self.parts)}; names look like {next(iter(found))}"
                )
        chosen = {n: layer for n, layer in found.items() if any(matches(n, p) for p in self.targets)}
        kept = model.adapted()
        adapted = [name for name in chosen if name.removesuffix(".base_layer") in kept]
        if adapted:
            raise PassError(
                f"lora_recovery: {len(adapted)} layers are adapted already ({adapted[0]}); put merge_lora "
                f"before this pass if they are dense, or train them once, with all they are to learn"
            )
        packed = [name for name, layer in chosen.items() if isinstance(layer, PackedLinear)]
        if packed and self.merge == "always":
            raise PassError(
                f"lora_recovery: merge is always, but {len(packed)} layers are packed and cannot take an "
                f"adapter in ({packed[0]}); set merge to auto, or put this pass before what packs them"
            )
        small = [name for name, layer in chosen.items() if not _saves(layer, self.rank)]
        if len(small) == len(chosen):
            raise PassError(
                f"lora_recovery: adapters of rank {self.rank} would be as large as each of the {len(small)} "
                f"layers; lower rank"
            )
        notes = []
        if small:
            notes.append(
                f"{len(small)} layers left alone, which an adapter of rank {self.rank} would be as large as: "
                f"{', '.join(small)}"
            )
        fixed = [m for m in model.connector.modules() if isinstance(m, PackedLinear)]
        if self.train_connector and fixed:
            notes.append(f"{len(fixed)} packed layers of the connector are not trained, the rest of it is")
        return {name: layer for name, layer in chosen.items() if name not in small}, notes

    def _linears(self, model: Salmonn) -> dict[str, Layer]:
        """Full name -> plain or packed layer of the parts, without the head and the factors of adapters."""
        absent = [part for part in self.parts if part not in model.parts()]
        if absent:
            raise PassError(
                f"lora_recovery: the model has no {', '.join(absent)}; it has {', '.join(model.parts())}"
            )
        if "llm" in self.parts and isinstance(model.llm, PeftModel):
            raise PassError("lora_recovery: the LLM has an unmerged LoRA; put merge_lora before it")
        head = model.causal_lm.get_output_embeddings()
        found: dict[str, Layer] = {}
        for part in [part for part in PARTS if part in self.parts]:
            linears = {
                f"{part}.{name}": module
                for name, module in model.get_submodule(part).named_modules()
                if isinstance(module, nn.Linear | PackedLinear)
                and module is not head
                and not any(step.startswith("lora_") for step in name.split("."))
            }
            if not linears:
                raise PassError(f"lora_recovery: {part} has no linear layer; take it from parts")
            found |= linears
        return found


def _saves(layer: Layer, rank: int) -> bool:
    """Whether an adapter has fewer numbers than the layer."""
    return rank * (layer.in_features + layer.out_features) < layer.in_features * layer.out_features
