"""Which kernel computes a layer on a device, and what to warn of."""

from __future__ import annotations

import torch

from audiolm_compress.quantization.int4 import Int4Cpu, Int4Cuda, int4_tile
from audiolm_compress.quantization.integer_product import int_mm_is_exact
from audiolm_compress.quantization.kernels import Dequantize, Int8Cpu, Kernel, Shape


def why_sixteen_bit(kernel: Kernel) -> str:
    """Why a kernel's layer computes prompts with 16-bit inputs; "" where it rounds them to 8 bit."""
    if isinstance(kernel, Int4Cpu | Int8Cpu):
        if kernel.integer:
            return ""
        if not kernel.shape.scheme.symmetric:
            return "zero points"
        return "too small to gain" if int_mm_is_exact() else "no exact product of bytes"
    return "the CUDA kernel takes 16 bit" if isinstance(kernel, Int4Cuda) else "no fast kernel"


def rounds_inputs(shape: Shape, dtype: torch.dtype) -> bool:
    """Whether many positions at a layer of this format are products of bytes, where those are exact.

    Known without the device, for plans; ``dtype`` is that of the scales.
    """
    scheme = shape.scheme
    if shape.activations != 8 or not scheme.symmetric or dtype != torch.bfloat16:
        return False
    if Int8Cpu.fits(scheme, shape.in_features):
        return Int8Cpu.gains(shape)
    return Int4Cpu.fits(scheme, shape.in_features)


def choose_kernel(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[Kernel, str]:
    """The kernel for a layer on ``device`` in ``dtype``, and a warning ("" if none is due)."""
    scheme = shape.scheme
    name = f"{scheme.bits} bit, group size {scheme.group_size}"
    if dtype != torch.bfloat16:
        return Dequantize(shape), (
            f"{name}: no fast kernel takes {str(dtype).removeprefix('torch.')} activations; weights "
            "are dequantised at every use, which may be slower than 16 bit (cast to bfloat16)"
        )
    if device.type == "cpu":
        warning = ""
        if shape.activations == 8 and scheme.symmetric and not int_mm_is_exact():
            warning = f"{name}: this CPU's product of bytes is not exact; inputs stay 16 bit, which is slower"
        if Int8Cpu.fits(scheme, shape.in_features):
            return Int8Cpu(shape), warning
        if Int4Cpu.fits(scheme, shape.in_features) and int4_tile():
            return Int4Cpu(shape), warning
    elif device.type == "cuda" and Int4Cuda.fits(shape, device):
        return Int4Cuda(shape), ""
    return Dequantize(shape), (
        f"{name}: no fast kernel on {device.type} for this format; weights are dequantised at every "
        "use, which may be slower than 16 bit"
    )
