"""The passes that a recipe can name: this list is all there is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from audiolm_compress.passes.base import Pass
from audiolm_compress.passes.cast import Cast
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.merge_lora import MergeLora
from audiolm_compress.passes.quantize_embedding import QuantizeEmbedding

AnyPass = Annotated[MergeLora | Cast | Gptq | QuantizeEmbedding, Field(discriminator="kind")]
PASSES: tuple[type[Pass], ...] = (MergeLora, Cast, Gptq, QuantizeEmbedding)

__all__ = ["PASSES", "AnyPass", "Cast", "Gptq", "MergeLora", "QuantizeEmbedding"]
