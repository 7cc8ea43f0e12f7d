"""A packed linear layer whose scales can be trained while its integers stay as they are.

    W[o, i] = s[g(i), o] * z[o, i],   z = q - zero,   dL/ds[g, o] = sum over i in g of dL/dW[o, i] * z[o, i]

With the integers z fixed there is no rounding on the way, so this is the exact gradient and no
straight-through estimate, as learned step sizes need while the integers still move (LSQ, arXiv:1902.08153).
The scales of progressive schemes are multiples of one unit an output: the unit is trained, the multiples
count as part of z.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.kernels import stored_parts
from audiolm_compress.quantization.linear import QuantizedLinear
from audiolm_compress.quantization.packed_linear import PackedLinear


class TrainableScales(nn.Module):
    """Stands in for a packed layer while its scales, and its ``bias`` [out], are trained.

    The parameter ``changes`` float32 [groups, out] is relative, s (1 + d): steps of an optimizer such as Adam
    have a size of their own, whatever that of the scales. It starts at 0, and weight decay leads back there.
    Inputs are not rounded, also where the layer's kernel will round them.
    """

    def __init__(self, layer: PackedLinear[Any]) -> None:
        """Read the integers, scales and bias of ``layer``, which is left alone."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        integers, initial, self.width = integers_of(layer)
        self.integers: Tensor
        self.register_buffer("integers", integers)
        self.initial: Tensor
        self.register_buffer("initial", initial.to(torch.float32, copy=True))
        self.changes = nn.Parameter(torch.zeros_like(self.initial))
        bias = layer._buffers["bias"]
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    @property
    def scales(self) -> Tensor:
        """The scales of now, float32 [groups, out]."""
        return self.initial * (1 + self.changes)

    def weight(self) -> Tensor:
        """The weights as a matrix, float32 [out, in]."""
        return (self.integers * _spread(self.scales, self.width, self.in_features)).T

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out] in the dtype of ``x``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight().to(x.dtype), bias)

    @torch.no_grad()
    def round_scales(self, dtype: torch.dtype) -> None:
        """Move the scales to the values nearest to them in ``dtype``, in which a layer will hold them."""
        if dtype != torch.float32:
            self.changes.copy_(self.scales.to(dtype).float() / self.initial - 1)

    def write_to(self, layer: PackedLinear[Any]) -> None:
        """Give ``layer``, which it was made from, the scales and the bias of now; its integers stay.

        Raises:
            ValueError: a scale has become 0 or is not finite.
        """
        bias = None if self.bias is None else self.bias.detach()
        scales = self.scales.detach().view(layer.stored()["scales"].shape)  # [out], or [groups or 1, out]
        layer.set_scales(scales, bias)


def integers_of(layer: PackedLinear[Any]) -> tuple[Tensor, Tensor, int]:
    """What the weights of a packed layer are made of.

    Returns:
        z int8 or int16 [in, out]; the scales [groups, out] that are to be multiplied with it; and how many
        inputs share one.

    Raises:
        TypeError: an unknown kind of packed layer.
    """
    stored = layer.stored()
    if isinstance(layer, Int8Linear):
        return stored["codes"].T.contiguous(), stored["scales"][None], layer.in_features
    if not isinstance(layer, QuantizedLinear):
        raise TypeError(f"the integers of a {type(layer).__name__} are not known")
    scheme, inputs = layer.scheme, layer.in_features
    codes, _, zeros = stored_parts(layer.shape, stored)
    width = scheme.width(inputs)
    integers = codes.to(torch.int16).sub_(_spread(zeros, width, inputs))
    if scheme.progressive:
        integers.mul_(_spread(stored["multiples"], width, inputs))
        width = inputs
    fits_a_byte = scheme.symmetric or scheme.bits < 8
    return integers.to(torch.int8) if fits_a_byte else integers, stored["scales"], width


def _spread(per_group: Tensor, width: int, inputs: int) -> Tensor:
    """[groups, out] -> [in, out]."""
    return per_group.repeat_interleave(width, 0)[:inputs]
