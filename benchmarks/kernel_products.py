"""All products of each kind of quantised layer that this machine has, for ``kernels.py``.

Every product is timed through the layer's own forward, so that what is around it costs all of them the same.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.gptq import quantize_rounding
from audiolm_compress.quantization.int8_products import Dequantized, IntMm, Product
from audiolm_compress.quantization.integer_product import int_mm_is_exact
from audiolm_compress.quantization.kernels import Dequantize
from audiolm_compress.quantization.packed_linear import Buffers

Call = Callable[[Tensor], Tensor]
ALL = 10**9  # rows
OTHER_PRECISION = "at any number of rows: a clip's result is the same in every batch"
# Bits of a weight -> names of the product for few rows, of that for many, and of that with 8-bit inputs.
NAMES = {
    4: ("int4 product", "dequantised tiles", "bytes by bytes"),
    8: ("int8 product", "converted", "bytes by bytes"),
}
WHOLE = "dequantised whole"


class Choice(NamedTuple):
    """What a layer does at some use.

    Attributes:
        positions: what the rows are; "" where that does not matter.
        product: number of rows -> the product that the layer takes.
        reasons: any other product -> why the layer does not take it even where it is faster.
    """

    positions: str
    product: Callable[[int], str]
    reasons: dict[str, str]


class Subject(NamedTuple):
    """A layer to be measured: its products by name, and which of them it chooses."""

    products: dict[str, Call]
    choices: list[Choice]


def packed(weight: Tensor, scheme: Scheme) -> Subject:
    """A layer as the pass gptq makes them, its first sixteen inputs named as outliers.

    Args:
        weight: float32 [out, in].
        scheme: a format that the CPU has a kernel for.
    """
    result = quantize_rounding(weight, None, scheme, dtype=torch.bfloat16)
    layer = QuantizedLinear.from_codes(
        result.codes, result.grid, scheme, None, torch.bfloat16, activations=8, outliers=torch.arange(16)
    )
    general = Dequantize(layer.shape)
    stored = layer.state_dict()
    layer.prepare()
    kernel: Any = layer.kernel
    few, many, whole_bytes = NAMES[scheme.bits]
    products = {
        few: _forced(layer, few_rows=ALL, integer=False),
        many: _forced(layer, few_rows=0, integer=False),
        WHOLE: lambda x: general.linear(stored, x, single=False),
    }
    if int_mm_is_exact():
        products[whole_bytes] = _forced(layer, integer=True)

    def by_rows(rows: int) -> str:
        return few if rows <= kernel.few_rows else many

    threshold = f"the threshold, {kernel.few_rows} rows, is one for all layers of this kind"
    general_only = "the general kernel, taken only for formats that have no other"
    sixteen = {few: threshold, many: threshold, WHOLE: general_only}
    eight = dict.fromkeys((few, many, WHOLE), f"prompts have 8-bit inputs {OTHER_PRECISION}")
    single = Choice(
        "single positions", by_rows, {**sixteen, whole_bytes: f"tokens have 16-bit inputs {OTHER_PRECISION}"}
    )
    if kernel.integer:
        prompt = Choice("prompt", lambda rows: whole_bytes, eight)
    else:
        small = f"layers of this size have 16-bit inputs {OTHER_PRECISION}"
        prompt = Choice("prompt", by_rows, {**sixteen, whole_bytes: small})
    return Subject(products, [single, prompt])


def int8(linear: nn.Linear) -> Subject:
    """A layer as the pass quantize_encoder makes them."""
    layer = Int8Linear.from_linear(linear)
    layer.prepare()
    eight = f"inputs have 8 bit {OTHER_PRECISION}"
    reasons = {
        IntMmCpu.name: "as precise; but the weights are kept in one arrangement for all numbers of rows",
        FbGemm.name: "one scale for all rows: a clip's result would depend on its neighbours",
        Int8Pack.name: eight,
        Dequantized.name: eight,
    }
    others: list[Product] = [Dequantized()]
    if int_mm_is_exact():
        others.append(IntMmCpu())
    if "fbgemm" in torch.backends.quantized.supported_engines:
        others.append(FbGemm())
    if linear.in_features % 32 == 0 and linear.weight.dtype == torch.bfloat16:
        others.append(Int8Pack())
    products: dict[str, Call] = {layer.kernel.name: layer}
    for product in others:
        if product.name not in products:
            products[product.name] = _with_product(linear, product)
    return Subject(products, [Choice("", lambda rows: layer.kernel.name, reasons)])


class IntMmCpu(IntMm):
    """PyTorch's integer product on a CPU, where any number of rows will do."""

    name = "int8 x int8 (torch._int_mm)"
    _fewest_rows = 0


class FbGemm(Dequantized):
    """PyTorch's dynamically quantised layer: one scale for all rows; takes and gives float32."""

    name = "int8 x int8 (FBGEMM, one scale)"

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """Pack; what comes of it is no tensor and stays with the product."""
        codes, scales = stored["codes"], stored["scales"]
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            with (
                warnings.catch_warnings()
            ):  # quantised tensors are deprecated; nothing else makes this packing
                warnings.simplefilter("ignore", UserWarning)
                zeros = torch.zeros(len(scales), dtype=torch.int64)
                weight = torch._make_per_channel_quantized_tensor(codes, scales.double(), zeros, 0)
                self._packed = torch.ops.quantized.linear_prepack(weight, None)
        finally:
            torch.backends.quantized.engine = before
        return super().arrange(stored)

    def linear(self, buffers: Buffers, x: Tensor, bias: Tensor | None) -> Tensor:
        """The product rounds the inputs itself."""
        y = torch.ops.quantized.linear_dynamic(x.float(), self._packed, False).to(x.dtype)
        return y if bias is None else y.add_(bias)


class Int8Pack(Dequantized):
    """PyTorch's product of 8-bit weights and bfloat16 inputs; its rows must be a multiple of 32 wide."""

    name = "8 bit weights, int8 product"

    def linear(self, buffers: Buffers, x: Tensor, bias: Tensor | None) -> Tensor:
        """One call."""
        y = torch._weight_int8pack_mm(x.contiguous(), buffers["codes"], buffers["scales"])
        return y if bias is None else y.add_(bias)


def _with_product(linear: nn.Linear, product: Product) -> Int8Linear:
    """An 8-bit layer that computes with ``product``, whatever it would choose."""
    layer = Int8Linear.from_linear(linear)
    layer._hold(product.arrange(layer.stored()))
    layer.kernel = product
    return layer


def _forced(layer: QuantizedLinear, **settings: Any) -> QuantizedLinear:
    """``layer``, whose kernel uses one of its products for any number of rows; the weights are shared."""
    forced = copy.copy(layer)
    forced.kernel = copy.copy(layer.kernel)
    for name, value in settings.items():
        setattr(forced.kernel, name, value)
    return forced
