"""What 8 bits cost a linear layer, measured on some of the inputs that calibration showed it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.quantization.dynamic_int8 import Int8Linear

SAMPLE = 128  # rows of each layer's input that errors are measured on


@dataclass
class Seen:
    """What calibration shows a layer.

    Attributes:
        largest: magnitude of each channel of its input, [in].
        rows: some inputs, [n, in] each.
        divisors: what smoothing has divided its outputs by, [out].
    """

    largest: Tensor | None = None
    rows: list[Tensor] = field(default_factory=list)
    divisors: Tensor | float = 1.0

    def add(self, x: Tensor, count: int) -> None:
        """Take notice of an input [..., in]; keep up to ``count`` of its rows, evenly spaced."""
        flat = x.detach().flatten(0, -2)
        if not len(flat):
            return
        largest = flat.abs().amax(0)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        free = min(count, SAMPLE - sum(len(part) for part in self.rows))
        if free > 0:
            self.rows.append(flat[:: -(-len(flat) // free)].clone())

    def divide(self, factors: Tensor) -> None:
        """The same for inputs divided by ``factors`` [in]."""
        self.rows = [part / factors.to(part.dtype) for part in self.rows]


def output_error(linear: nn.Linear, layer: Int8Linear, seen: Seen) -> float | None:
    """|y - y_8|^2 / |y|^2 over the rows seen, y being the dense layer's products in float32 without its bias.

    Outputs count as they were before smoothing divided them: what reads them multiplies them again. None
    without rows: the layer was never called.
    """
    if not seen.rows:
        return None
    x = torch.cat(seen.rows)
    exact = F.linear(x.float(), linear.weight.float()) * seen.divisors
    found = layer(x).float()
    if linear.bias is not None:
        found -= linear.bias.float()
    found *= seen.divisors
    return float((exact - found).square().sum() / exact.square().sum().clamp(min=1e-30))


def quantized(linear: nn.Linear) -> Int8Linear:
    """``linear`` in 8 bit, ready for its device."""
    layer = Int8Linear.from_linear(linear)
    layer.prepare()
    return layer
