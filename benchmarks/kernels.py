"""Every product of the quantised layers against the 16-bit Linear, over shapes and numbers of rows.

    python benchmarks/kernels.py                      # all shapes; some minutes on two quiet cores
    python benchmarks/kernels.py --shape 2304:9216    # inputs:outputs; prints, and writes only with --out

As many cores as OMP_NUM_THREADS names, else all, and nothing else may run. Rows are single positions, a token
of a clip each, or the positions of a prompt: layers may treat them differently.

Products take turns with each other and with the 16-bit Linear for several rounds, in which each time is the
least of some calls. A ratio is the median over the rounds of the ratio within a round. Noise is the median
difference between the two times that the 16-bit Linear gets in a round. A product that takes more than twice
as long as the fastest in the first two rounds is out of the race.

For every point the result names the product that the layer chooses by itself, the fastest one, and both times
as ratios to the 16-bit Linear. Where the chosen one is slower than the fastest by more than the noise, a note
says why it is chosen. The thresholds of the kernels in quantization/ come from these tables. Writes
results/kernels_cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from kernel_products import Call, Choice, int8, packed
from result_file import write_result
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.quantization import Scheme

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
ROWS = (1, 4, 16, 32, 128, 500)
FORMATS = {
    "int4 g32": Scheme(4, 32),
    "int4 g128": Scheme(4, 128),
    "int4 g64 progressive": Scheme(4, 64, progressive=True),
    "int8 weight-only": Scheme(8, -1),
}
ENCODER_LAYER = "int8 encoder layer"
SIXTEEN_BIT, AGAIN = "16-bit Linear", "16-bit Linear, second time in a round"
ROUNDS = 5
SECONDS, CALLS = 0.01, 20  # for one time: calls until either is reached
TRIALS, HOPELESS = 2, 2.0  # after these rounds, what takes so much longer than the fastest is left out


def least_seconds(call: Call, x: torch.Tensor) -> float:
    times: list[float] = []
    while sum(times) < SECONDS and len(times) < CALLS:
        start = time.perf_counter()
        call(x)
        times.append(time.perf_counter() - start)
    return min(times)


def race(products: dict[str, Call], linear: Call, kept: set[str], x: torch.Tensor) -> dict[str, list[float]]:
    """Seconds of every product in each round; only the ``kept`` are always in the race to its end."""
    field = {SIXTEEN_BIT: linear, **products, AGAIN: linear}
    times: dict[str, list[float]] = {name: [] for name in field}
    for call in products.values():
        call(x)  # some make their code at the first call
    for turn in range(ROUNDS):
        for name, call in field.items():
            times[name].append(least_seconds(call, x))
        if turn == TRIALS - 1:
            least = {name: min(times[name]) for name in field}
            limit = HOPELESS * min(least[name] for name in products)
            staying = {SIXTEEN_BIT, AGAIN, *kept}
            field = {name: call for name, call in field.items() if name in staying or least[name] <= limit}
    return times


def verdict(times: dict[str, list[float]], chosen: str, reasons: dict[str, str]) -> dict[str, Any]:
    """What the times of a race say of the chosen product."""

    def ratio(name: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[to], strict=False))

    products = [name for name in times if name not in (SIXTEEN_BIT, AGAIN)]
    finished = [name for name in products if len(times[name]) == len(times[SIXTEEN_BIT])]
    fastest = min(finished, key=lambda name: ratio(name, SIXTEEN_BIT))
    noise = statistics.median(
        max(a, b) / min(a, b) - 1 for a, b in zip(times[SIXTEEN_BIT], times[AGAIN], strict=True)
    )
    lag = ratio(chosen, fastest)
    return {
        "chosen": chosen,
        "ratio": round(ratio(chosen, SIXTEEN_BIT), 3),
        "fastest": fastest,
        "fastest_ratio": round(ratio(fastest, SIXTEEN_BIT), 3),
        "chosen_to_fastest": round(lag, 3),
        "noise": round(noise, 3),
        "note": reasons[fastest] if lag > 1 + noise else "",
        "milliseconds": {
            name: round(1e3 * statistics.median(times[name]), 4) for name in (SIXTEEN_BIT, *products)
        },
    }


def measure(inputs: int, outputs: int) -> Iterator[dict[str, Any]]:
    """Yield what is found at every layer and number of rows."""
    linear = nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16)
    rows = {count: torch.randn(count, inputs, dtype=torch.bfloat16) for count in ROWS}
    for layer in (*FORMATS, ENCODER_LAYER):
        subject = packed(linear.weight.float(), FORMATS[layer]) if layer in FORMATS else int8(linear)
        for count, x in rows.items():
            kept = {choice.product(count) for choice in subject.choices}
            times = race(subject.products, linear, kept, x)
            for choice in subject.choices:
                found = verdict(times, choice.product(count), choice.reasons)
                yield {"layer": _name(layer, choice), "rows": count, **found}


def _name(layer: str, choice: Choice) -> str:
    return f"{layer}, {choice.positions}" if choice.positions else layer


def table(shape: str, points: list[dict[str, Any]]) -> Table:
    """A row a point."""
    shown = Table(title=f"{shape}: times as ratios to the 16-bit Linear")
    for head in ("layer", "rows", "chosen", "ratio", "fastest", "ratio", "noise", "note"):
        shown.add_column(head, justify="right" if head in ("rows", "ratio", "noise") else "left")
    before = ""
    layers = list(dict.fromkeys(point["layer"] for point in points))
    for point in sorted(points, key=lambda point: layers.index(point["layer"])):
        if point["layer"] != before:
            shown.add_section()
        same = point["fastest"] == point["chosen"]
        shown.add_row(
            point["layer"] if point["layer"] != before else "",
            str(point["rows"]),
            point["chosen"],
            f"{point['ratio']:.2f}",
            "the same" if same else point["fastest"],
            "" if same else f"{point['fastest_ratio']:.2f}",
            f"{point['noise']:.1%}",
            point["note"],
        )
        before = point["layer"]
    return shown


def summary(points: list[dict[str, Any]]) -> str:
    """How often the chosen product is the fastest."""
    fastest = sum(point["chosen"] == point["fastest"] for point in points)
    noted = sum(bool(point["note"]) for point in points)
    within = len(points) - fastest - noted
    return f"{len(points)} points: fastest {fastest}, within noise of it {within}, slower with a note {noted}"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", action="append", metavar="INPUTS:OUTPUTS", help="this one; repeatable")
    parser.add_argument("--out", type=Path, help=f"result file; default results/{RESULTS.name}")
    arguments = parser.parse_args()
    shapes = SHAPES
    if arguments.shape:
        given = [tuple(map(int, shape.split(":"))) for shape in arguments.shape]
        shapes = {f"{inputs}:{outputs}": (inputs, outputs) for inputs, outputs in given}
    out = arguments.out or (None if arguments.shape else RESULTS)
    torch.manual_seed(0)
    content: dict[str, Any] = {
        "environment": describe_environment("cpu", 0),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "rounds": ROUNDS,
        "points": [],
    }
    console = Console(width=170)
    per_shape = len(ROWS) * (2 * len(FORMATS) + 1)
    stderr = Console(stderr=True)
    for name, (inputs, outputs) in shapes.items():
        found = track(measure(inputs, outputs), f"{name} ({inputs} -> {outputs})", per_shape, console=stderr)
        sizes = {"shape": name, "inputs": inputs, "outputs": outputs}
        content["points"] += [sizes | point for point in found]
    for name, (inputs, outputs) in shapes.items():
        points = [point for point in content["points"] if point["shape"] == name]
        console.print(table(f"{name} ({inputs} -> {outputs})", points))
    console.print(summary(content["points"]))
    if out:
        write_result(out, content)


if __name__ == "__main__":
    main()
