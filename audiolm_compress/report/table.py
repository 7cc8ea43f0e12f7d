"""The report on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from audiolm_compress.report import quality, rows, timing

if TYPE_CHECKING:
    from audiolm_compress.report.report import Report


def render(report: Report) -> RenderableType:
    """Main figures first, then where they come from, then what a reader must know."""
    baseline, candidate = report.baseline, report.candidate
    names = rows.main_scores(baseline, candidate)
    main = table("Comparison", rows.header(names))
    for name, side in {"baseline": baseline, **report.further}.items():
        main.add_row(*rows.main_row(name, side, names))
    main.add_row(*rows.main_row("candidate", candidate, names), end_section=True)
    main.add_row(*rows.change_row(baseline, candidate, report.differences, names))
    main.add_row(*rows.noise_row(report.differences, names))
    scores = table("Scores (95 % interval)", quality.HEADER)
    for row in quality.quality_rows(baseline, candidate, report.differences):
        scores.add_row(*row)
    parts = table("Weights by part, MiB", ("part", "baseline", "candidate", "ratio"))
    for row in rows.part_rows(baseline, candidate):
        parts.add_row(*row)
    latency = table("Latency in ms, median (5 % to 95 %)", ("protocol", "figure", "baseline", "candidate"))
    for row in timing.latency_rows(baseline, candidate):
        latency.add_row(*row)
    lines = rows.notes(baseline, candidate, report.differences, report.steps, report.notes)
    lines += rows.further_lines(report.further, candidate)
    shown: list[RenderableType] = [main, scores, parts, latency]
    if figures := timing.throughput_rows(baseline, candidate):
        throughput = table("Throughput", ("figure", "baseline", "candidate"))
        for row in figures:
            throughput.add_row(*row)
        shown.append(throughput)
    if report.steps:
        shown.append(_steps(report))
    shown.append(Text("\n".join(f"- {line}" for line in lines)))
    if any(goal.met for goal in report.goals):
        shown.append(Text("\nGoals", style="bold"))
        shown += [Text(f"  {rows.met_line(goal)}", style="green") for goal in report.goals if goal.met]
    if not report.goals_met:
        missed = table("\nGoals MISSED", rows.MISSED)
        for row in rows.missed_rows(report.goals):
            missed.add_row(*row, style="bold red")
        shown.append(missed)
    return Group(*shown)


def table(title: str, header: Sequence[str]) -> Table:
    """An empty table whose first column is text and whose other columns are figures."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1)
    )
    for index, name in enumerate(header):
        made.add_column(name, justify="right" if index else "left")
    return made


def _steps(report: Report) -> Table:
    made = Table(
        title="Passes", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in ("pass", "what it did", "weights MiB", "seconds"):
        made.add_column(name, justify="left" if name in ("pass", "what it did") else "right")
    for row in step_rows(report):
        made.add_row(*row)
    return made


def step_rows(report: Report) -> Iterable[rows.Row]:
    """Each pass with the weights before and after it."""
    before = report.baseline.weight_bytes
    for step in report.steps:
        yield rows.step_row(step, before)
        before = sum(step.weight_bytes.values())
