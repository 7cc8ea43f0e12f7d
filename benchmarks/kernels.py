"""Each kernel of the quantised layers against the 16-bit Linear, over shapes and numbers of rows.

    python benchmarks/kernels.py                      # all shapes: below four minutes on two cores
    python benchmarks/kernels.py --shape 2304:9216    # inputs:outputs; prints only

Figures are milliseconds of one call, the least of many, on all cores unless ``--threads`` says so: other
work on the machine adds to a time and never takes from it. Rows are single positions, a token of a clip each,
or the positions of a prompt: their precision differs. For every point the result names the kernel that a
layer chooses by itself and the fastest one; the note says why where they are not the same. `few_rows` of the
kernels in quantization/ comes from these tables. Writes results/kernels_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.gptq import quantize_rounding

RESULTS = Path(__file__).parent / "results" / "kernels_cpu.json"
SHAPES = {
    "Gemma-2-2B, query": (2304, 2048),
    "Gemma-2-2B, up": (2304, 9216),
    "Gemma-2-2B, down": (9216, 2304),
    "Whisper-large, query": (1280, 1280),
    "Whisper-large, up": (1280, 5120),
    "Whisper-large, down": (5120, 1280),
    "tiny, query": (256, 256),
    "tiny, up": (256, 1024),
}
ROWS = (1, 4, 16, 32, 64, 128, 500)
FORMATS = {
    "int4 g32": Scheme(4, 32),
    "int4 g128": Scheme(4, 128),
    "int4 g32 progressive": Scheme(4, 32, progressive=True),
    "int8 weight-only": Scheme(8, -1),
}
ALL = 10**9  # rows
# Name of a product -> settings of the kernel's object that force it.
PRODUCTS: dict[int, dict[str, dict[str, Any]]] = {
    4: {
        "int4 product": {"few_rows": ALL, "integer": False},
        "bytes by bytes": {"integer": True},
        "dequantised tiles (16-bit inputs)": {"few_rows": 0, "integer": False},
    },
    8: {
        "int8 product": {"few_rows": ALL, "integer": False},
        "bytes by bytes": {"integer": True},
        "converted (16-bit inputs)": {"few_rows": 0, "integer": False},
    },
}
NOISE = 1.1  # times that differ by less are taken for equal
SECONDS, CALLS = 0.06, 60  # for one figure


def milliseconds(call: Callable[[], Tensor]) -> float:
    call()
    times: list[float] = []
    while len(times) < 4 or (sum(times) < SECONDS and len(times) < CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(min(times) * 1e3, 4)


@contextmanager
def forced(kernel: Any, settings: dict[str, Any]) -> Iterator[None]:
    """Inside, ``kernel`` uses one of its products for any number of rows."""
    before = {name: getattr(kernel, name) for name in settings}
    for name, value in settings.items():
        setattr(kernel, name, value)
    yield
    for name, value in before.items():
        setattr(kernel, name, value)


def packed(weight: Tensor, scheme: Scheme) -> QuantizedLinear:
    """A layer as the pass gptq makes them, its first sixteen inputs named as outliers."""
    result = quantize_rounding(weight, None, scheme, dtype=torch.bfloat16)
    layer = QuantizedLinear.from_codes(
        result.codes, result.grid, scheme, None, torch.bfloat16, activations=8, outliers=torch.arange(16)
    )
    layer.prepare()
    return layer


def point(layer: QuantizedLinear, x: Tensor, dense: float, single: bool) -> dict[str, Any]:
    """Times of all products of ``layer`` for the rows ``x``, and which it would choose for such positions."""
    kernel: Any = layer.kernel
    products = PRODUCTS[layer.scheme.bits]
    times: dict[str, float] = {}
    for name, settings in products.items():
        with forced(kernel, settings):
            times[name] = milliseconds(partial(layer, x))
    few, integer, sixteen_bit = products
    chosen = few if len(x) <= kernel.few_rows else sixteen_bit
    if single:
        del times[integer]  # of another precision: no choice
    elif kernel.integer:
        chosen = integer
    fastest = min(times, key=lambda name: times[name])
    note = ""
    if times[chosen] > NOISE * times[fastest]:
        note = f"the threshold, {kernel.few_rows} rows, is one for all layers of this kind"
        if chosen == integer:
            note = "all prompts have 8-bit inputs, short ones too: a clip's result is the same in every batch"
    return {
        "milliseconds": times,
        "chosen": chosen,
        "fastest": fastest,
        "ratio to 16 bit": round(times[chosen] / dense, 3),
        "note": note,
    }


def measure(inputs: int, outputs: int) -> dict[str, Any]:
    """Format -> rows -> what `point` finds."""
    weight = torch.randn(outputs, inputs)
    x = {rows: torch.randn(rows, inputs, dtype=torch.bfloat16) for rows in ROWS}
    linear = nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16)
    dense = {rows: milliseconds(partial(linear, x[rows])) for rows in ROWS}
    figures: dict[str, Any] = {"16-bit Linear": dense}
    for name, scheme in FORMATS.items():
        layer = packed(weight, scheme)
        for positions in ("single positions", "prompt"):
            single = positions != "prompt"
            points = {rows: point(layer, x[rows], dense[rows], single) for rows in ROWS}
            figures[f"{name}, {positions}"] = points
    int8 = Int8Linear.from_linear(linear)
    int8.prepare()
    times = {rows: milliseconds(partial(int8, x[rows])) for rows in ROWS}
    figures["int8 encoder layer"] = {
        rows: {
            "milliseconds": {int8.kernel.name: times[rows]},
            "chosen": int8.kernel.name,
            "fastest": int8.kernel.name,
            "ratio to 16 bit": round(times[rows] / dense[rows], 3),
            "note": "",
        }
        for rows in ROWS
    }
    return figures


def table(shape: str, figures: dict[str, Any]) -> Table:
    shown = Table(
        title=f"{shape}: chosen kernel's time as a ratio to the 16-bit Linear; * is not the fastest"
    )
    shown.add_column("rows")
    for rows in ROWS:
        shown.add_column(str(rows), justify="right")
    shown.add_row("16-bit Linear, ms", *(f"{figures['16-bit Linear'][rows]:.3f}" for rows in ROWS))
    for name, points in figures.items():
        if name != "16-bit Linear":
            cells = (points[rows] for rows in ROWS)
            shown.add_row(name, *(f"{p['ratio to 16 bit']:.2f}{'*' if p['note'] else ''}" for p in cells))
    return shown


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", action="append", metavar="INPUTS:OUTPUTS")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    shapes = SHAPES
    if arguments.shape:
        shapes = {shape: tuple(map(int, shape.split(":"))) for shape in arguments.shape}  # type: ignore[misc]
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "device": "cpu",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "unit": "milliseconds of one call",
        "shapes": {},
    }
    for name, (inputs, outputs) in shapes.items():
        figures = measure(inputs, outputs)
        result["shapes"][name] = {"inputs": inputs, "outputs": outputs} | figures
        Console(width=120).print(table(f"{name} ({inputs} -> {outputs})", figures))
    if not arguments.shape:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
