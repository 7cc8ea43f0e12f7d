"""Fold LoRA factors into the weights they adapt.

    W' = W + (alpha / rank) * B A          # section 4.1 of LoRA, arXiv:2106.09685

Nothing is lost but rounding to the weights' dtype, and every adapted layer saves two small
multiplications, a scaling and an addition per token: in a model that is bound by the number of its
operations, not by their size, that is the cheapest speed-up there is. Later passes then see plain Linears.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn


class MergeLora(Pass):
    """Fold the LLM's LoRA factors into its weights, and those that ``lora_recovery`` has kept in any part."""

    kind: Literal["merge_lora"] = Field("merge_lora", alias="pass")

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Merge what can be merged; what is kept beside packed layers stays, and the report says so.

        Raises:
            PassError: the LLM's LoRA adapts a layer that is quantised already.
        """
        folded = model.merge_lora() + model.fold_adapters()
        kept = list(model.adapted())
        notes = []
        if kept:
            notes.append(
                f"{len(kept)} adapters stay: what they adapt is packed or factorised, and has no matrix to "
                f"fold them into: {', '.join(kept)}"
            )
        if not folded:
            why = "no LoRA can be folded" if kept else "the model has no LoRA: nothing to merge"
            return PassReport(changed=False, summary=why, notes=notes)
        return PassReport(
            changed=True,
            summary=f"folded the LoRA factors into {folded} Linears",
            figures={"merged": folded},
            notes=notes,
        )

    def predict(self, sketch: Sketch) -> None:
        """The adapters go."""
        sketch.model.merge_lora()
        sketch.model.fold_adapters()
