"""``audiolm-compress plan``: what a recipe will give and cost, before any run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiolm_compress.cli.completion import complete_recipes
from audiolm_compress.cli.options import (
    Answering,
    device_option,
    give,
    json_option,
    overrides_option,
    threads_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from audiolm_compress.planner import Plan
    from audiolm_compress.planning.floors import Bound, Floor
    from audiolm_compress.planning.work import PartCost

EXAMPLES = """\b
Examples:
  audiolm-compress plan recipes/gemma2_4bit.yaml
  audiolm-compress plan recipes/gemma2_4bit.yaml --baseline salmonn.yaml
  audiolm-compress plan recipes/gemma2_4bit.yaml --set passes.6.bits=3 --json plan.json

\b
How to read it:
  A floor is a time that no program can beat on that device: every byte of
  weights read once (memory), every product computed at the best rate
  (compute), both at the same time (both). Measured times
  are two to three times the floor at best; eager PyTorch on a small model is
  bound by the number of its operations instead.
  Before the first token (TTFT) FLOPs decide, mostly Whisper's. Per further
  token (TPOT) bytes do: the LLM's weights and its head are read whole.
"""


@click.command(cls=Answering, epilog=EXAMPLES)
@click.argument("recipe", shell_complete=complete_recipes)
@click.option(
    "--baseline",
    help="Model in place of the recipe's: upstream YAML, saved folder, hub id or `tiny`; configs will do.",
)
@device_option
@overrides_option
@json_option
@threads_option
def plan(
    recipe: str,
    baseline: str | None,
    device: str | None,
    overrides: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Predict what a recipe will give and cost.

    Needs no weights and no GPU: sizes come from configs. Shows, after every pass of RECIPE, parameters,
    bytes, work until the first token and bytes read per further token; the least times these mean on this
    machine and on known GPUs; and the disk and time that a run will need. An impossible setting is refused
    as a run would refuse it.
    """
    from rich.console import Console

    from audiolm_compress.planner import plan as make_plan
    from audiolm_compress.report.json_form import written

    made = make_plan(recipe, baseline=baseline, device=device, overrides=overrides)
    give(json_file, lambda: written(made.to_dict()), lambda: Console().print(render(made)))


def render(made: Plan) -> RenderableType:
    """Sizes by part and pass, then times, then needs and assumptions."""
    from rich.console import Group
    from rich.text import Text

    from audiolm_compress.report.table import table

    first, last = made.stages[0], made.stages[-1]
    passes = table(
        f"{made.recipe} on {_near(made.baseline)}, 10 s clip",
        ("after", "params M", "weights MiB", "", "GFLOP", "MiB/token", "prompt"),
    )
    for stage in made.stages:
        passes.add_row(
            stage.name,
            f"{stage.parameters / 1e6:,.1f}",
            f"{stage.bytes / 2**20:,.1f}",
            f"{stage.bytes / first.bytes:.3f}x",
            f"{stage.flops / 1e9:,.1f}",
            f"{stage.read_per_token / 2**20:,.1f}",
            str(stage.prompt_tokens),
            end_section=stage is first,
        )
    parts = _by_part(made, "Weights by part, MiB", lambda part: part.bytes / 2**20)
    work = _by_part(made, "GFLOP to the first token, by part", lambda p: sum(p.flops.values()) / 1e9)
    ttft = _floors(made, "TTFT", lambda floor: floor.ttft)
    tpot = _floors(made, "TPOT", lambda floor: floor.tpot)
    lines = [
        f"memory with intermediate results, 10 s clip: {_gib(first.bytes + first.activation_bytes)} before, "
        f"{_gib(last.bytes + last.activation_bytes)} after (estimate)",
        f"disk: {_gib(made.disk_bytes)} will be written, {_gib(made.disk_free)} are free",
        f"time of a run on this machine, an estimate: {_duration(sum(made.seconds.values()))} ("
        + ", ".join(f"{name} {_duration(seconds)}" for name, seconds in made.seconds.items())
        + ")",
        *(f"assumed: {note}" for note in made.notes),
        *(f"{stage.name}: {note}" for stage in made.stages for note in stage.notes),
    ]
    return Group(passes, parts, work, ttft, tpot, Text("\n".join(f"- {line}" for line in lines)))


def _near(source: str) -> str:
    """A path below the working directory without the way there."""
    here = Path.cwd()
    return str(Path(source).relative_to(here)) if Path(source).is_relative_to(here) else source


def _by_part(made: Plan, title: str, figure: Callable[[PartCost], float]) -> RenderableType:
    """One column a part, one row for every pass that changes something in it."""
    from audiolm_compress.report.table import table

    shown = table(title, ("after", *made.stages[0].parts))
    former: list[str] = []
    for stage in made.stages:
        own = [stage.parts.get(name) for name in made.stages[0].parts]
        row = ["-" if part is None else f"{figure(part):,.1f}" for part in own]
        if row != former:
            shown.add_row(stage.name, *row)
        former = row
    return shown


def _floors(made: Plan, name: str, bounds: Callable[[Floor], tuple[Bound, Bound]]) -> RenderableType:
    """One row a device: what reading and computing take at least, and the floor that both make."""
    from audiolm_compress.report.table import table

    shown = table(
        f"Floors of {name} in ms before and after, 10 s clip (see --help)",
        ("", "GB/s", "memory", "after", "compute", "after", "both", "after", ""),
    )
    for floor in made.floors:
        before, after = bounds(floor)
        pairs = ((before.memory, after.memory), (before.compute, after.compute), (before.both, after.both))
        cells = [_milliseconds(seconds) for pair in pairs for seconds in pair]
        bandwidth = f"{floor.device.bandwidth / 1e9:,.0f}"
        shown.add_row(floor.device.name, bandwidth, *cells, f"{after.both / before.both:.2f}x")
    return shown


def _milliseconds(seconds: float) -> str:
    """Three digits that count."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
