"""Each kernel against the 16-bit and 32-bit Linear, over shapes and numbers of rows.

    python benchmarks/kernels.py                      # all shapes; a few minutes on one core
    python benchmarks/kernels.py --shape 576:1536     # outputs:inputs

Figures are microseconds of CPU time of one call, medians on one thread, so that other work on the machine
hardly shows; the table gives each as a ratio to the bfloat16 Linear. `few_rows` of the kernels comes from the
last two columns of each kernel: its packed product and its dequantising path. Writes
results/kernels_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.gptq import quantize_rounding

RESULTS = Path(__file__).parent / "results" / "kernels_cpu.json"
SHAPES = ((256, 256), (1536, 576), (576, 1536), (2304, 2304), (9216, 2304), (2304, 9216))
ROWS = (1, 4, 8, 16, 32, 64, 96, 128, 512)
SCHEMES = (Scheme(4, 32), Scheme(4, 128), Scheme(4, 128, symmetric=False), Scheme(8, -1), Scheme(3, 32))
SECONDS = 0.3  # for one figure


def microseconds(call: Callable[[], Tensor]) -> float:
    call()
    times: list[int] = []
    while len(times) < 3 or sum(times) < SECONDS * 1e9:
        start = time.thread_time_ns()
        call()
        times.append(time.thread_time_ns() - start)
    return statistics.median(times) / 1e3


def packed(weight: Tensor, scheme: Scheme) -> QuantizedLinear:
    result = quantize_rounding(weight, None, scheme, dtype=torch.bfloat16)
    layer = QuantizedLinear.from_codes(result.codes, result.grid, scheme, None, torch.bfloat16)
    layer.prepare()
    return layer


def measure(outputs: int, inputs: int) -> dict[str, dict[int, float]]:
    """Kernel -> rows -> microseconds."""
    weight = torch.randn(outputs, inputs)
    figures: dict[str, dict[int, float]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        dense = nn.Linear(inputs, outputs, bias=False, dtype=dtype)
        x = {rows: torch.randn(rows, inputs, dtype=dtype) for rows in ROWS}
        name = f"Linear {str(dtype).removeprefix('torch.')}"
        figures[name] = {rows: microseconds(partial(dense, x[rows])) for rows in ROWS}
    x = {rows: torch.randn(rows, inputs, dtype=torch.bfloat16) for rows in ROWS}
    for scheme in SCHEMES:
        layer = packed(weight, scheme)
        name = f"{scheme.bits} bit g{scheme.group_size}" + ("" if scheme.symmetric else " asymmetric")
        for path, few_rows in (("packed", 10**9), ("dequantised", 0)):
            if hasattr(layer.kernel, "few_rows"):
                layer.kernel.few_rows = few_rows
            elif path == "packed":
                continue
            figures[f"{name}, {path}"] = {rows: microseconds(partial(layer, x[rows])) for rows in ROWS}
    return figures


def table(shape: str, figures: dict[str, dict[int, float]]) -> Table:
    shown = Table(title=f"{shape}: time as a ratio to the bfloat16 Linear")
    shown.add_column("rows")
    for rows in ROWS:
        shown.add_column(str(rows), justify="right")
    reference = figures["Linear bfloat16"]
    for name, times in figures.items():
        shown.add_row(name, *(f"{times[rows] / reference[rows]:.2f}" for rows in ROWS))
    return shown


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", action="append", metavar="OUTPUTS:INPUTS")
    chosen = parser.parse_args().shape
    shapes = [tuple(map(int, shape.split(":"))) for shape in chosen] if chosen else SHAPES
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, object] = {
        "device": "cpu",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
        "unit": "microseconds of CPU time",
    }
    timed: dict[str, dict[str, dict[int, float]]] = {}
    for outputs, inputs in shapes:
        shape = f"{inputs} inputs, {outputs} outputs"
        timed[shape] = measure(outputs, inputs)
        Console(width=120).print(table(shape, timed[shape]))
    if not chosen:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result | {"shapes": timed}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
