"""Compute Whisper's positions instead of storing them.

The position embeddings of Whisper's encoder are 1500 rows of sinusoids (`quantization/sinusoids.py`) that its
training left as they are. Computing the rows of a clip takes a small fraction of encoding it.

When it helps: the smaller the encoder, the more; of Whisper tiny in 4 bit the table would be a fifth, of
Whisper large in 32 bit 0.3 %. What it costs: nothing but the rounding of the stored table.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.sinusoids import Sinusoids, sinusoids
from audiolm_compress.salmonn.model import Salmonn

_NAME = "speech_encoder.embed_positions"
_ROUNDING = 2**-8  # of values up to 1 that were stored in bfloat16


class ComputePositions(Pass):
    """Put sinusoids in the place of the table of Whisper's positions."""

    kind: Literal["compute_positions"] = Field("compute_positions", alias="pass")

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Check that the table holds sinusoids, and drop it; a model without it is left as it is.

        Raises:
            PassError: the table holds something else, as after a training of positions.
        """
        table = model.get_submodule(_NAME)
        if isinstance(table, Sinusoids):
            return PassReport(changed=False, summary="Whisper's positions are computed already")
        assert isinstance(table, nn.Embedding)
        weight = table.weight
        expected = sinusoids(torch.arange(len(weight), device=weight.device), weight.shape[1])
        apart = (weight.float() - expected).abs().max().item()
        if apart > _ROUNDING:
            raise PassError(
                f"compute_positions: Whisper's positions are up to {apart:.2g} away from sinusoids, so they "
                "were trained and must be stored; remove this pass"
            )
        model.replace_module(_NAME, Sinusoids(*weight.shape))
        return PassReport(
            changed=True,
            summary=f"{len(weight)} positions of Whisper are computed; the stored ones were {apart:.1g} away",
            figures={"saved_bytes": weight.nbytes, "largest_difference": apart},
        )

    def predict(self, sketch: Sketch) -> None:
        """The table is gone."""
        table = sketch.model.get_submodule(_NAME)
        if isinstance(table, nn.Embedding):
            sketch.model.replace_module(_NAME, Sinusoids(*table.weight.shape))
