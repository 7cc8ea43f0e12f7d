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
    """Fold the LLM's LoRA factors into its weights."""

    kind: Literal["merge_lora"] = Field("merge_lora", alias="pass")

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Merge; a model without LoRA is left as it is, and the report says so."""
        folded = model.merge_lora()
        if not folded:
            return PassReport(changed=False, summary="the LLM has no LoRA: nothing to merge")
        return PassReport(
            changed=True, summary=f"folded the LoRA factors into {folded} Linears", figures={"merged": folded}
        )

    def predict(self, sketch: Sketch) -> None:
        """The adapters go."""
        sketch.model.merge_lora()
