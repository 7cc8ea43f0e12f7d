"""Products of 8-bit weights with inputs that are rounded to 8 bit as they come.

Each product has its own arrangement of the weights, the only copy in memory, and gives the codes back.
`choose_product` picks one for a device and says when it is not the one a user would hope for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm_compress.quantization.packed_linear import Arrangement, Buffers
from audiolm_compress.quantization.rows import LEVELS, quantize_rows


class Product(Arrangement, Protocol):
    """A way to hold and multiply 8-bit weights; stored are ``codes`` int8 [out, in] and ``scales`` [out]."""

    def linear(self, buffers: Buffers, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x`` [rows, in] to [rows, out] in the dtype of ``x``; without gradient."""


class Dequantized:
    """8-bit weights alone: the input keeps its dtype. Any device; works on the stored form."""

    name = "8 bit weights, dequantised"

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """The stored form itself."""
        return _only_stored(stored)

    def restore(self, buffers: Buffers) -> dict[str, Tensor]:
        """The stored form itself."""
        return _only_stored(buffers)

    def linear(self, buffers: Buffers, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply with the dequantised matrix."""
        weight = buffers["codes"].to(x.dtype).mul_(buffers["scales"].to(x.dtype)[:, None])
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


class OneDnn:
    """oneDNN's product on a CPU: unsigned bytes by signed ones, in the layout that it wants the weights in.

    Signed inputs are hundreds of times slower here; ``torch._int_mm``, which packs the weights at every call
    and leaves all scaling to others, takes 5 to 80 % longer. Scales of weights are applied in the product;
    those of rows, and the bias, in one pass over the output.
    """

    name = "int8 x int8 (oneDNN)"

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """One opaque tensor, [in, out], which gives the codes back."""
        packed = torch.ops.onednn.qlinear_prepack(stored["codes"].contiguous(), None)
        return {"packed": packed, "scales": stored["scales"], "output_scales": stored["scales"].float()}

    def restore(self, buffers: Buffers) -> dict[str, Tensor]:
        """Unpack."""
        return {"codes": buffers["packed"].to_dense().T.contiguous(), "scales": buffers["scales"]}

    def linear(self, buffers: Buffers, x: Tensor, bias: Tensor | None) -> Tensor:
        """Round, multiply, scale."""
        codes, scales = quantize_rows(x, offset=128)
        y = _onednn_product(codes, buffers["packed"], buffers["output_scales"], scales.dtype)
        y = y.mul_(scales) if bias is None else torch.addcmul(bias.to(y.dtype), y, scales)
        return y.to(x.dtype)


class IntMm:
    """PyTorch's integer product on CUDA; works on the stored form."""

    name = "int8 x int8 (CUDA)"
    _fewest_rows = 17  # what torch._int_mm takes there

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """The stored form itself."""
        return _only_stored(stored)

    def restore(self, buffers: Buffers) -> dict[str, Tensor]:
        """The stored form itself."""
        return _only_stored(buffers)

    def linear(self, buffers: Buffers, x: Tensor, bias: Tensor | None) -> Tensor:
        """Round, multiply, scale; few rows are filled up with zeros."""
        codes, scales = quantize_rows(x)
        missing = max(0, self._fewest_rows - len(codes))
        sums = torch._int_mm(F.pad(codes, (0, 0, 0, missing)), buffers["codes"].T)[: len(codes)]
        y = sums.float().mul_(buffers["scales"].float()).mul_(scales.float())
        return (y if bias is None else y.add_(bias)).to(x.dtype)


def choose_product(shape: tuple[int, int], device: torch.device) -> tuple[Product, str]:
    """The product for weights of ``shape`` [out, in] on ``device``, and a warning ("" if none is due)."""
    kind = device.type
    if kind == "cpu" and _onednn_is_exact():
        return OneDnn(), ""
    # Both sides must be multiples of 8 there; the product needs compute capability 7.5.
    even = all(size % 8 == 0 for size in shape)
    if kind == "cuda" and even and torch.cuda.get_device_capability(device) >= (7, 5):
        return IntMm(), ""
    return Dequantized(), (
        f"8 bit weights and activations: no integer product on this {kind} device for this shape; weights "
        "are dequantised at every use, which may be slower than 16 bit"
    )


def _only_stored(buffers: Buffers) -> dict[str, Tensor]:
    return {name: buffers[name] for name in ("codes", "scales")}


def _onednn_product(codes: Tensor, packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """(codes - 128) by packed weights times their scales, [rows, out] in float32 or bfloat16."""
    product = torch.ops.onednn.qlinear_pointwise.default
    zeros = scales.new_empty(0, dtype=torch.int64)  # weights have none
    y: Tensor = product(codes, 1.0, 128, packed, scales, zeros, None, 1.0, 0, dtype, "none", [], "")
    return y


@lru_cache(maxsize=1)
def _onednn_is_exact() -> bool:
    """Whether this CPU has the product: without VNNI, sums of two products of bytes saturate at 16 bit."""
    weights = torch.full((16, 64), LEVELS, dtype=torch.int8)
    codes = torch.full((32, 64), 255, dtype=torch.uint8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weights, None)
        found = _onednn_product(codes, packed, torch.ones(16), torch.float32)
        return bool((found == 64 * LEVELS * LEVELS).all()) and torch.equal(packed.to_dense().T, weights)
    except (AttributeError, RuntimeError):  # built without oneDNN
        return False
