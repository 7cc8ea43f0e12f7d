"""``audiolm-compress efficiency``: upstream's memory and latency evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from audiolm_compress.cli.options import (
    Answering,
    device_option,
    give,
    json_option,
    quiet_option,
    threads_option,
)

if TYPE_CHECKING:
    from audiolm_compress.measurement.efficiency import Efficiency

EXAMPLES = """\b
Examples:
  audiolm-compress efficiency tiny
  audiolm-compress efficiency salmonn.yaml --num_it 100 --num_warmup 10 --device cuda:0

\b
Prints the four figures of upstream's evaluate_efficiency_salmonn.py (means),
then medians and percentiles, and what is measured differently. `bench` times
real clips and full answers, and compares models.
"""


@click.command(cls=Answering, epilog=EXAMPLES)
@click.argument("model")
@click.option(
    "--num_it",
    "--num-it",
    "iterations",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Iterations that count.",
)
@click.option(
    "--num_warmup",
    "--num-warmup",
    "warmup",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Iterations before them.",
)
@json_option
@quiet_option
@device_option
@threads_option
def efficiency(
    model: str, iterations: int, warmup: int, json_file: str | None, quiet: bool, device: str | None
) -> None:
    """Measure memory, TTFT and TPOT of MODEL in upstream's protocol.

    10 s of noise, batch 1, recognition prompt, one decode step after the prefill.
    """
    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.devices import choose_device
    from audiolm_compress.measurement.efficiency import measure_efficiency
    from audiolm_compress.measurement.settings import NoiseLatency
    from audiolm_compress.report.json_form import written

    settings = NoiseLatency(warmup=warmup, iterations=iterations)
    with shown_progress(quiet) as progress:
        found = measure_efficiency(model, settings, device=choose_device(device), seed=0, progress=progress)
    give(json_file, lambda: written(found.to_dict()), lambda: _show(found))


def _show(found: Efficiency) -> None:
    """Upstream's figures first, then their spread, then what a reader must know."""
    from rich.console import Console

    from audiolm_compress.measurement.efficiency import DIFFERENCES
    from audiolm_compress.report.table import table

    console = Console(highlight=False)
    for line in found.upstream_lines():
        console.print(line)
    shown = table("\nThe same iterations in ms", ("", "mean", "median", "5 %", "95 %"))
    for name, times in (("inference", found.inference), ("TTFT", found.ttft), ("TPOT", found.tpot)):
        spread = times.spread
        figures = (times.mean, spread.median, spread.p5, spread.p95)
        shown.add_row(name, *(f"{1e3 * seconds:.2f}" for seconds in figures))
    console.print(shown)
    for line in (found.protocol, f"memory: {found.memory_method}", *found.notes):
        console.print(f"- {line}")
    console.print("Different from upstream's script:")
    for line in DIFFERENCES:
        console.print(f"- {line}")
