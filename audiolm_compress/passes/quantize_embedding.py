"""The LLM's embedding and head in 8 bit.

Large vocabularies make these the largest matrices of a small LLM (Gemma-2-2B: 590 M of 2.6 B weights), and
the head is read whole for every token. Each row, the vector of one token, gets one scale and 255 levels by
plain rounding:

    w[t] ~ s_t * q_t,    s_t = max |w[t]| / 127

At this width rounding adds an error of about half a percent to a row, less than bfloat16 logits lose in a
forward pass, so there is nothing for calibration to win. Where the head is tied to the embedding both keep
reading one storage. An embedding that scales its output (Gemma: sqrt(width)) still does.

When it helps: always for memory; for speed wherever a token's time is bound by reading weights.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.planning.sketch import Sketch, empty_linear
from audiolm_compress.quantization.embedding import QuantizedEmbedding, TiedHead
from audiolm_compress.quantization.gptq import quantize_rounding
from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.linear import QuantizedLinear
from audiolm_compress.salmonn.model import Salmonn


def embed_scale(embedding: nn.Module) -> float:
    """The factor that an embedding multiplies its rows with.

    Raises:
        PassError: a kind of embedding whose forward may do more than that.
    """
    if type(embedding) is nn.Embedding:
        return 1.0
    # The plain number first: an outline has no value in the tensor.
    scale = getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", None))
    if isinstance(embedding, nn.Embedding) and isinstance(scale, Tensor | float):
        return float(scale)
    raise PassError(
        f"quantize_embedding: the LLM's embedding is a {type(embedding).__name__}, which this pass does "
        "not know; merge adapters of the embedding first"
    )


class QuantizeEmbedding(Pass):
    """Store the LLM's embedding and head in 8 bit; tied ones stay tied."""

    kind: Literal["quantize_embedding"] = Field("quantize_embedding", alias="pass")
    bits: Literal[8] = Field(
        8, description="Bits of a weight; embeddings tolerate no fewer without training."
    )

    @torch.no_grad()
    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Replace both modules; a model that has them in 8 bit already is left as it is.

        Raises:
            PassError: the embedding is of an unknown kind.
        """
        embedding, head = model.causal_lm.get_input_embeddings(), model.causal_lm.get_output_embeddings()
        if isinstance(embedding, QuantizedEmbedding):
            return PassReport(changed=False, summary="embedding and head are in 8 bit already")
        before = sum(model.weight_bytes().values())
        names = {id(module): name for name, module in model.named_modules()}
        scale, weight = embed_scale(embedding), embedding.get_parameter("weight")
        quantized = QuantizedEmbedding.from_weight(weight, scale)
        rows: list[dict[str, Any]] = [
            {"name": names[id(embedding)], "bits": 8, "error": quantized.error(weight)}
        ]
        tied = head.weight is weight
        replacement: TiedHead | QuantizedLinear
        if tied and head.bias is None:
            replacement = TiedHead(names[id(embedding)], quantized)
        else:
            scheme = Scheme(bits=8, group_size=-1)
            result = quantize_rounding(head.weight, None, scheme, dtype=head.weight.dtype)
            replacement = QuantizedLinear.from_codes(
                result.codes, result.grid, scheme, head.bias, head.weight.dtype
            )
            rows.append({"name": names[id(head)], "bits": 8, "error": result.error})
        warning = replacement.prepare()
        model.replace_module(names[id(embedding)], quantized)
        model.replace_module(names[id(head)], replacement)
        saved = before - sum(model.weight_bytes().values())
        return PassReport(
            changed=True,
            summary=f"embedding and {'tied ' if tied else ''}head of {len(quantized.codes)} tokens in 8 bit",
            figures={"tokens": quantized.num_embeddings, "tied": str(tied).lower(), "saved_bytes": saved},
            modules=rows,
            notes=[f"head: {warning}"] if warning else [],
        )

    def predict(self, sketch: Sketch) -> None:
        """Both modules are replaced by empty ones of the same form."""
        model = sketch.model
        embedding, head = model.causal_lm.get_input_embeddings(), model.causal_lm.get_output_embeddings()
        if isinstance(embedding, QuantizedEmbedding):
            return
        names = {id(module): name for name, module in model.named_modules()}
        scale, weight = embed_scale(embedding), embedding.get_parameter("weight")
        replacement: TiedHead | QuantizedLinear
        with sketch.empty():
            quantized = QuantizedEmbedding(*weight.shape, embed_scale=scale, dtype=weight.dtype)
            if head.weight is weight and head.bias is None:
                replacement = TiedHead(names[id(embedding)], quantized)
            else:
                replacement = empty_linear(head, Scheme(bits=8, group_size=-1))
        model.replace_module(names[id(embedding)], quantized)
        model.replace_module(names[id(head)], replacement)
