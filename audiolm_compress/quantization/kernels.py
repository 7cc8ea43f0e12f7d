"""Kernels: how a quantised linear layer is computed on a device.

Each kernel has its own arrangement of the weights, which is the only copy in memory, and can give the stored
form back. `choose_kernel` picks one per layer and says when it is not the one a user would hope for.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm_compress.quantization.grids import Scheme, multiples
from audiolm_compress.quantization.integer_product import int_mm_is_exact
from audiolm_compress.quantization.packed_linear import Arrangement, Buffers
from audiolm_compress.quantization.packing import pack, unpack
from audiolm_compress.quantization.rows import round_rows

_CHUNK = 2_500_000  # weights converted at a time: in the cache; whole matrices take three times as long


class Shape(NamedTuple):
    """What a kernel must know of its layer.

    ``activations`` are the bits of an input value where several positions of a sequence are computed at once:
    16, or 8 with a scale a position. Single positions, such as a token at a time, are always 16 bit.
    """

    in_features: int
    out_features: int
    scheme: Scheme
    activations: int = 16


class Kernel(Arrangement, Protocol):
    """A way to hold and multiply the quantised weights of a layer of one shape.

    The stored form is ``qweight`` int32 [words, out], ``scales`` [groups, out], and ``qzeros`` int32 [groups,
    words] unless the scheme is symmetric. Progressive schemes have the units as ``scales`` [1, out], and
    ``multiples`` int8 [groups, out]. Where 8-bit activations are wanted, the buffers may hold ``outliers``:
    the inputs whose values are to have more levels.
    """

    def linear(self, buffers: Buffers, x: Tensor, *, single: bool) -> Tensor:
        """``x`` [rows, in] times the weights: [rows, out]; without gradient.

        ``single`` rows are one position each of their sequences, whose inputs stay 16 bit. The number of rows
        may decide among products of equal precision only: a clip's result must not depend on its neighbours.
        """

    def dense(self, buffers: Buffers) -> Tensor:
        """The weights, [out, in], in the dtype of the scales."""


def stored_parts(shape: Shape, stored: Buffers) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint8 [in, out], scales [groups, out], zero points int16 [groups, out] of the stored form."""
    scheme, scales = shape.scheme, stored["scales"]
    if scheme.progressive:
        scales = stored["multiples"].to(scales.dtype) * scales
    codes = unpack(stored["qweight"], scheme.bits, shape.in_features)
    if scheme.symmetric:
        return codes, scales, torch.full_like(scales, scheme.middle, dtype=torch.int16)
    zeros = unpack(stored["qzeros"].T.contiguous(), scheme.bits, shape.out_features).T
    return codes, scales, zeros.to(torch.int16)


def scales_to_store(scales: Tensor, unit: Tensor | None) -> dict[str, Tensor]:
    """Stored form of ``scales`` [groups, out], which are multiples of ``unit`` [out] if there is one."""
    if unit is None:
        return {"scales": scales.contiguous()}
    return {
        "scales": unit[None].contiguous(),
        "multiples": multiples(scales.float(), unit.float()).to(torch.int8),
    }


class Dequantize:
    """Unpack, scale, multiply: any scheme, any device, any floating dtype. Works on the stored form."""

    name = "dequantize"

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """The stored form itself."""
        return _only_stored(stored)

    def restore(self, buffers: Buffers) -> dict[str, Tensor]:
        """The stored form itself."""
        return _only_stored(buffers)

    def linear(self, buffers: Buffers, x: Tensor, *, single: bool) -> Tensor:
        """Multiply with the dequantised matrix."""
        return F.linear(x, self.dense(buffers))

    def dense(self, buffers: Buffers) -> Tensor:
        """Scale the codes; one rounding to the dtype of the scales."""
        codes, scales, zeros = stored_parts(self.shape, buffers)
        inputs = self.shape.in_features
        width = self.shape.scheme.width(inputs)
        centred = codes.to(torch.int16).sub_(_spread(zeros, width, inputs))
        weight = centred.to(scales.dtype).mul_(_spread(scales, width, inputs))
        return weight.T


def converted_product(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """``x`` [rows, in] times int8 ``codes`` [out, in] and ``scales`` [out], in the dtype of ``x``.

    Codes are converted for some outputs at a time: a head of 256k tokens would take a gigabyte.
    """
    chunks = codes.split(max(1, _CHUNK // codes.shape[1]))
    return torch.cat([F.linear(x, chunk.to(x.dtype)) for chunk in chunks], dim=-1) * scales


class Int8Cpu:
    """PyTorch's int8 matmul for whole-row symmetric scales; bfloat16 is its one fast dtype."""

    name = "int8 matmul (CPU)"
    few_rows = 24  # above, converting to 16 bit for a dense product is faster (benchmarks/kernels.py)

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.integer = shape.activations == 8 and self.gains(shape) and int_mm_is_exact()

    @staticmethod
    def gains(shape: Shape) -> bool:
        """Whether there are weights enough for rounding the inputs to pay (benchmarks/kernels.py)."""
        return shape.in_features * shape.out_features >= 500_000

    @staticmethod
    def fits(scheme: Scheme, in_features: int) -> bool:
        """Whole rows, symmetric; the product reads past the end of rows that are no multiple of 32 wide."""
        return (
            scheme.bits == 8
            and scheme.symmetric
            and scheme.groups(in_features) == 1
            and in_features % 32 == 0
        )

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """Signed bytes [out, in] and one scale an output."""
        codes, scales, _ = stored_parts(self.shape, stored)
        return {"packed": (codes.T.contiguous() ^ 128).view(torch.int8), "scales": scales[0].contiguous()}

    def restore(self, buffers: Buffers) -> dict[str, Tensor]:
        """Back to unsigned words."""
        codes = buffers["packed"].view(torch.uint8) ^ 128
        return {"qweight": pack(codes.T, 8), "scales": buffers["scales"][None].clone()}

    def linear(self, buffers: Buffers, x: Tensor, *, single: bool) -> Tensor:
        """Products of bytes; for 16-bit inputs the int8 product, or for many a dense one that is scaled."""
        if self.integer and not single:
            rounded = round_rows(x, buffers.get("outliers"))
            y = rounded.times(buffers["packed"].T).float()
            return y.mul_(buffers["scales"]).mul_(rounded.scales).to(x.dtype)
        if len(x) <= self.few_rows:
            return torch._weight_int8pack_mm(x.contiguous(), buffers["packed"], buffers["scales"])
        return converted_product(x, buffers["packed"], buffers["scales"])

    def dense(self, buffers: Buffers) -> Tensor:
        """Bytes times scales."""
        return buffers["packed"].to(buffers["scales"].dtype) * buffers["scales"][:, None]


def _only_stored(buffers: Buffers) -> dict[str, Tensor]:
    return {name: buffers[name] for name in ("qweight", "scales", "multiples", "qzeros") if name in buffers}


def _spread(per_group: Tensor, width: int, in_features: int) -> Tensor:
    """[groups, out] -> [in, out]."""
    if len(per_group) == 1:
        return per_group
    return per_group.repeat_interleave(width, 0)[:in_features]
