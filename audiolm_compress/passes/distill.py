"""Distillation: the baseline teaches what the passes so far have left of it.

Hinton et al., arXiv:1503.02531, for the logits; Romero et al., arXiv:1412.6550, for hidden states; with both,
DistilBERT (arXiv:1910.01108) repaired a Transformer of half the depth. The losses are in
`passes/distillation.py`.

When it helps: after `layer_drop`, `prune_width`, `low_rank` and `audio_token_rate`, and after `unpad_audio`,
where it matches Whisper's states of a clip at its own length with those that the baseline gives in 30 s. It
needs neither labels of its own (losses on states and logits take the baseline's word) nor much audio, and
costs one look of the baseline at every clip. Put it before the passes that quantise: packed weights cannot be
trained (`lora_recovery` and `scale_recovery` stand behind those).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from torch import nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, PassReport
from audiolm_compress.passes.recovery import improvement, recover
from audiolm_compress.passes.recovery_settings import Part, Recovery
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.settings import refuse_idle

_FIXED = ("speech_encoder.embed_positions.weight",)  # sinusoids that Whisper never trained


def _not_negative(layers: dict[int, int]) -> dict[int, int]:
    if any(mine < 0 or theirs < 0 for mine, theirs in layers.items()):
        raise ValueError("layers are numbered from 0")
    return layers


LayerMap = Annotated[dict[int, int], AfterValidator(_not_negative)]


class Distill(Recovery):
    """Train parts of the model towards the baseline's states, audio tokens and logits."""

    kind: Literal["distill"] = Field("distill", alias="pass")
    parts: tuple[Part, ...] = Field(
        ("speech_encoder", "audio_encoder", "connector"),
        min_length=1,
        description="Parts whose dense weights are trained.",
    )
    speech_layers: LayerMap = Field(
        {},
        description="Layer of the student's Whisper: layer of the baseline's whose states it is to give, "
        "beside the last ones.",
    )
    audio_layers: LayerMap = Field({}, description="The same for BEATs.")

    @model_validator(mode="after")
    def _mapped_layers_count(self) -> Distill:
        for name, weight in (("speech", self.losses.speech), ("audio", self.losses.audio)):
            if not weight:
                instead = "give that loss a weight"
                refuse_idle(self, f"{name}_layers", beside=f"losses.{name}=0", instead=instead)
            if f"{name}_encoder" not in self.parts:
                beside, instead = f"parts={', '.join(self.parts)}", f"add {name}_encoder to them"
                refuse_idle(self, f"{name}_layers", beside=beside, instead=instead)
        return self

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Train the parts; see ``recover``.

        Raises:
            PassError: a part is missing or holds nothing to train, or a layer map names a layer that is not.
        """
        trained = self._trained(model)
        for part, layers in self._maps().items():
            self._check_map(part, layers, model, context.reference())
        done = recover(
            model,
            context,
            self,
            trained,
            speech_layers=self.speech_layers,
            audio_layers=self.audio_layers,
        )
        packed = [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]
        fixed = [name for name in packed if name.partition(".")[0] in self.parts]
        notes = [f"{len(fixed)} packed layers are not trained: {', '.join(fixed)}"] if fixed else []
        return PassReport(
            changed=done.changed,
            summary=f"{', '.join(self.parts)} trained towards the baseline: {improvement(done)}",
            figures=done.figures,
            modules=done.rows,
            notes=[*notes, *done.notes],
        )

    def predict(self, sketch: Sketch) -> None:
        """No size changes."""
        self._trained(sketch.model)
        for part, layers in self._maps().items():
            self._check_map(part, layers, sketch.model, None)
        self.predict_training(sketch)

    def _maps(self) -> dict[str, Mapping[int, int]]:
        maps = {"speech_encoder": self.speech_layers, "audio_encoder": self.audio_layers}
        return {part: layers for part, layers in maps.items() if layers}

    def _check_map(
        self, part: str, layers: Mapping[int, int], model: Salmonn, teacher: Salmonn | None
    ) -> None:
        sides = [("the model", model, max(layers))]
        if teacher is not None:
            sides.append(("the baseline", teacher, max(layers.values())))
        for name, side, highest in sides:
            if part not in side.parts():
                raise PassError(f"distill: layers of {part} are mapped, but {name} has no {part}")
            if highest >= (depth := len(side.layers(part))):
                raise PassError(
                    f"distill: layer {highest} of {part} is mapped, but {name} has layers 0 to {depth - 1}"
                )

    def _trained(self, model: Salmonn) -> dict[str, nn.Parameter]:
        """Full name -> parameter of the parts.

        Raises:
            PassError: a part is missing, or all of it is packed.
        """
        absent = [part for part in self.parts if part not in model.parts()]
        if absent:
            raise PassError(
                f"distill: the model has no {', '.join(absent)}; it has {', '.join(model.parts())}"
            )
        trained = {
            name: parameter
            for name, parameter in model.named_parameters()
            if name.partition(".")[0] in self.parts and name not in _FIXED
        }
        for part in self.parts:
            if not any(p.ndim > 1 for name, p in trained.items() if name.startswith(f"{part}.")):
                raise PassError(
                    f"distill: {part} has no dense weights left to train; put distill before the pass that "
                    "quantises it, or use lora_recovery or scale_recovery"
                )
        return trained
