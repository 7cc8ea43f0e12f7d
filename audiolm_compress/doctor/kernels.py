"""Which kernels will compute packed layers on a device, and what the missing ones cost.

The costs are those of benchmarks/results/kernels_cpu.json, the layer ``up`` of Gemma-2-2B on two cores of an
AMD EPYC with AVX-512: times relative to the 16-bit layer. Of other devices nothing was measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from audiolm_compress.doctor.finding import Finding
from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.int8_products import Dequantized, choose_product
from audiolm_compress.quantization.integer_product import int_mm_is_exact
from audiolm_compress.quantization.kernel_choice import choose_kernel
from audiolm_compress.quantization.kernels import Dequantize, Shape

_INPUTS, _OUTPUTS = 2304, 9216  # of that layer
MEASURED = "benchmarks/results/kernels_cpu.json"
# (layer, rows, product) -> time relative to the 16-bit layer
RATIOS = {
    ("int4 g128, single positions", 1, "int4 product"): 0.18,
    ("int4 g128, single positions", 1, "dequantised whole"): 29.3,
    ("int4 g128, prompt", 128, "bytes by bytes"): 1.41,
    ("int4 g128, prompt", 128, "dequantised whole"): 5.45,
    ("int8 weight-only, single positions", 1, "int8 product"): 0.17,
    ("int8 weight-only, single positions", 1, "dequantised whole"): 6.99,
    ("int8 encoder layer", 128, "int8 x int8 (oneDNN)"): 0.50,
    ("int8 encoder layer", 128, "8 bit weights, dequantised"): 1.41,
}


def kernels(device: torch.device) -> Iterator[Finding]:
    """One finding for each format that recipes store layers in."""
    for bits, layer, product in ((4, "int4 g128", "int4 product"), (8, "int8 weight-only", "int8 product")):
        shape = Shape(_INPUTS, _OUTPUTS, Scheme(bits, 128 if bits == 4 else -1), 8)
        kernel, warning = choose_kernel(shape, device, torch.bfloat16)
        name = f"kernel, {bits} bit (gptq)"
        single = f"{layer}, single positions"
        with_kernel, without = RATIOS[single, 1, product], RATIOS[single, 1, "dequantised whole"]
        measured = f"a token takes {with_kernel:g} of a 16-bit layer's time (measured on a CPU: {MEASURED})"
        if isinstance(kernel, Dequantize):
            cost = f"{warning}; with the CPU's kernel {measured}, dequantised {without:g} times"
            yield Finding(name, "missing", f"{kernel.name} on {device}", cost, _remedy(device))
        else:
            found = f"{kernel.name}; {measured}" if device.type == "cpu" else kernel.name
            yield Finding(name, "ok", found)
    if device.type == "cpu":
        yield _bytes()
    product_of_bytes, warning = choose_product((_OUTPUTS, _INPUTS), device)
    name = "kernel, 8 x 8 bit (encoders)"
    fast, slow = (
        RATIOS["int8 encoder layer", 128, one] for one in ("int8 x int8 (oneDNN)", Dequantized.name)
    )
    if isinstance(product_of_bytes, Dequantized):
        cost = f"{warning}; on a CPU {fast:g} of a 16-bit layer's time become {slow:g} (128 rows, {MEASURED})"
        yield Finding(name, "missing", product_of_bytes.name, cost, _remedy(device))
    else:
        measured = (
            f"; {fast:g} of a 16-bit layer's time at 128 rows ({MEASURED})" if device.type == "cpu" else ""
        )
        yield Finding(name, "ok", f"{product_of_bytes.name}{measured}")
    yield _sixteen_bit(device)


def _bytes() -> Finding:
    fast = RATIOS["int4 g128, prompt", 128, "bytes by bytes"]
    name, said = (
        "kernel, prompts in 8 bit",
        f"128 positions of a 4-bit layer take {fast:g} of a 16-bit layer's time",
    )
    if int_mm_is_exact():
        return Finding(name, "ok", f"torch._int_mm, exact on this CPU; {said} ({MEASURED})")
    slow = RATIOS["int4 g128, prompt", 128, "dequantised whole"]
    return Finding(
        name,
        "missing",
        "torch._int_mm is not exact on this CPU: sums of products of bytes saturate",
        f"prompts are computed with 16-bit inputs; with an exact product {said}, dequantised {slow:g}",
        "a CPU with AVX512-VNNI, AVX-VNNI or AMX",
    )


def _sixteen_bit(device: torch.device) -> Finding:
    name = "bfloat16 (cast)"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Finding(name, "ok", "computed by the card")
        return Finding(name, "missing", "emulated by this card", "slower; not measured here", "a newer card")
    flags = set(processor_flags())
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    if native:
        return Finding(name, "ok", ", ".join(native))
    cost = "products in 16 bit are converted first; how slow that is was not measured here"
    return Finding(
        name, "missing", "no bfloat16 instructions are shown by this processor", cost, "another CPU"
    )


def processor_flags() -> list[str]:
    """Instructions by which PyTorch chooses kernels."""
    from audiolm_compress.measurement.environment import describe_environment

    return list(describe_environment("cpu", 0)["processor_flags"])


def _remedy(device: torch.device) -> str:
    return {
        "cpu": "a build of PyTorch for x86 or Arm with these products",
        "cuda": "a card of compute capability 8.0 or later",
    }.get(device.type, "--device cpu or a CUDA card")
