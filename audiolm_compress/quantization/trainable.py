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
    """Stands in for ``layer`` while its ``scales`` [groups, out], and its ``bias`` [out], are parameters.

    Inputs are not rounded here, also where the layer's kernel will round them.
    """

    def __init__(self, layer: PackedLinear[Any]) -> None:
        """Read the integers of ``layer``, which is left alone until ``write_back``."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._layer = (layer,)  # in a tuple: a child module's tensors would be found twice
        integers, scales, width = integers_of(layer)
        self.width = width
        self.integers: Tensor
        self.register_buffer("integers", integers)
        self.scales = nn.Parameter(scales.clone())
        bias = layer._buffers["bias"]
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def weight(self) -> Tensor:
        """The weights as a matrix [out, in], in the dtype of ``scales``."""
        scales = _spread(self.scales, self.width, self.in_features)
        return (self.integers.to(scales.dtype) * scales).T

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out] in the dtype of ``x``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight().to(x.dtype), bias)

    def write_back(self) -> PackedLinear[Any]:
        """The layer, with the scales and the bias of now and the integers that it always had.

        Raises:
            ValueError: a scale has become 0 or is not finite.
        """
        (layer,) = self._layer
        scales = self.scales.detach().view(layer.stored()["scales"].shape)
        layer.set_scales(scales, None if self.bias is None else self.bias.detach())
        return layer


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
