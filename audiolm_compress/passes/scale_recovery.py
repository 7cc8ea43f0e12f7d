"""Win accuracy back by training what packed weights have besides their integers: scales, biases, norms.

    y = W x + b,   W[o, i] = s[g(i), o] * z[o, i]        z stays, s and b are trained

Integers are chosen layer by layer; their scales, trained through the whole model towards the untouched
baseline, make up for what those choices did to each other. It is quantisation-aware distillation of all that
can be trained without rounding anything anew, so gradients are exact and every integer stays bit for bit
(`quantization/trainable.py`). Norms stand where scales of whole channels can be set right.

When it helps: after `gptq` and `quantize_encoder`, the more the fewer bits there are; small groups give more
scales to train. What it costs: nothing at inference, in bytes as in operations. In training the weights of
the chosen parts stand in memory as bytes, and as floats while a batch is computed.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, PassReport
from audiolm_compress.passes.recovery import improvement, recover
from audiolm_compress.passes.recovery_settings import Part, Recovery
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.embedding import QuantizedEmbedding
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.quantization.trainable import TrainableScales
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.structure import PARTS
from audiolm_compress.settings import refuse_idle


class ScaleRecovery(Recovery):
    """Train scales, biases and norms of parts whose weights are packed."""

    kind: Literal["scale_recovery"] = Field("scale_recovery", alias="pass")
    parts: tuple[Part, ...] = Field(("llm",), min_length=1, description="Parts to train in.")
    scales: bool = Field(True, description="Whether the scales of packed linear layers are trained.")
    biases: bool = Field(True, description="Whether the biases of packed linear layers are trained.")
    norms: bool = Field(True, description="Whether the weights and biases of norms are trained.")
    learning_rate: float = Field(1e-4, gt=0, description="Highest learning rate of AdamW.")

    @model_validator(mode="after")
    def _something_to_train(self) -> ScaleRecovery:
        if not (self.scales or self.biases or self.norms):
            raise ValueError("scales, biases and norms are all false, so nothing is trained; set one to true")
        if not self.scales:  # biases and the weights of norms are vectors
            refuse_idle(self, "weight_decay", beside="scales=false", instead="train the scales")
        return self

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Let trainable twins stand in for the packed layers, train, and write back.

        Raises:
            PassError: a part is missing or has nothing to train, or a scale has come out as 0; or as
                ``recover``.
        """
        layers, norms, notes = self._targets(model)
        twins = {name: TrainableScales(layer) for name, layer in layers.items()}
        groups: dict[str, dict[str, nn.Parameter]] = {"scales": {}, "biases": {}, "norms": norms}
        for name, twin in twins.items():
            if self.scales:
                groups["scales"][f"{name}.changes"] = twin.changes
            if self.biases and twin.bias is not None:
                groups["biases"][f"{name}.bias"] = twin.bias
            model.set_submodule(name, twin)
        trained = {name: p for group in groups.values() for name, p in group.items()}

        def as_kept() -> None:
            for name, twin in twins.items():
                twin.round_scales(layers[name].dtype)

        try:
            recovered = recover(model, context, self, trained, as_kept=as_kept)
        finally:
            for name, layer in layers.items():
                model.set_submodule(name, layer)
        for name, twin in twins.items():
            try:
                twin.write_to(layers[name])
            except ValueError as error:
                raise PassError(f"scale_recovery: {name}: {error}; lower learning_rate") from error
        counts = {f"trained_{key}": sum(p.numel() for p in group.values()) for key, group in groups.items()}
        told = ", ".join(f"{count} {key.removeprefix('trained_')}" for key, count in counts.items() if count)
        return PassReport(
            changed=recovered.changed,
            summary=f"trained {told}; no integer changed; {improvement(recovered)}",
            figures={**recovered.figures, **counts},
            modules=recovered.rows,
            notes=[*notes, *recovered.notes],
        )

    def predict(self, sketch: Sketch) -> None:
        """No size changes; time is the teacher's look at the clips and the training."""
        self._targets(sketch.model)
        self.predict_training(sketch)

    def _targets(
        self, model: Salmonn
    ) -> tuple[dict[str, PackedLinear[Any]], dict[str, nn.Parameter], list[str]]:
        """Packed layers and parameters of norms by full name, and notes on what is left out."""
        absent = [part for part in self.parts if part not in model.parts()]
        if absent:
            raise PassError(
                f"scale_recovery: the model has no {', '.join(absent)}; it has {', '.join(model.parts())}"
            )
        layers: dict[str, PackedLinear[Any]] = {}
        norms: dict[str, nn.Parameter] = {}
        notes: list[str] = []
        for part in [part for part in PARTS if part in self.parts]:
            modules = {f"{part}.{name}": m for name, m in model.get_submodule(part).named_modules()}
            packed = {name: m for name, m in modules.items() if isinstance(m, PackedLinear)}
            if self.scales or self.biases:
                layers |= packed
                if not packed:
                    raise PassError(
                        f"scale_recovery: no linear layer of {part} is packed; put this pass behind gptq or "
                        f"quantize_encoder, or take {part} from parts"
                    )
            if self.norms:
                norms |= {
                    f"{name}.{local}": parameter
                    for name, module in modules.items()
                    if "Norm" in type(module).__name__
                    for local, parameter in module.named_parameters(recurse=False)
                }
            embeddings = [name for name, m in modules.items() if isinstance(m, QuantizedEmbedding)]
            if self.scales and embeddings:
                notes.append(f"the scales of {', '.join(embeddings)}, one a token, are not trained")
        return layers, norms, notes
