"""Reports and benchmarks as the content of a page."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from audiolm_compress.report import introduction, rows
from audiolm_compress.report.html.content import Content

if TYPE_CHECKING:
    from audiolm_compress.report.benchmark import Benchmark
    from audiolm_compress.report.report import Report

_MADE_BY = "made by: "  # how the note begins that holds the command


def of_report(report: Report) -> Content:
    """Both models under the names that tables give them, the candidate's folder as the title."""
    baseline, candidate = report.baseline, report.candidate
    return Content(
        kind="Compression report",
        title=introduction.title(report),
        lead=introduction.lead(report),
        sides={"baseline": baseline, "candidate": candidate},
        differences={"candidate": report.differences},
        environment=report.environment,
        command=introduction.command(report),
        notes=[
            *rows.notes(baseline, candidate, {}, report.steps, report.notes),
            *rows.further_lines(report.further, candidate),
        ],
        steps=report.steps,
        goals=report.goals,
        further=report.further,
    )


def of_benchmark(benchmark: Benchmark) -> Content:
    """All models under their own names, the first as the baseline."""
    first, *others = benchmark.names
    made_by = [note.removeprefix(_MADE_BY) for note in benchmark.notes if note.startswith(_MADE_BY)]
    return Content(
        kind="Benchmark",
        title=f"{len(benchmark.names)} models on the same clips" if others else first,
        lead=(f"{', '.join(others)} against {first}" if others else "Measured alone")
        + f", on {len(benchmark.baseline.clips)} test clips, "
        + f"measured on {introduction.machine(benchmark.environment)}.",
        sides=benchmark.named,
        differences=dict(zip(others, benchmark.differences, strict=True)),
        environment=benchmark.environment,
        command=made_by[0] if made_by else shlex.join(["audiolm-compress", "bench", *benchmark.names]),
        notes=[
            *rows.protocol_lines(benchmark.baseline),
            *rows.side_lines(benchmark.named),
            *(note for note in benchmark.notes if not note.startswith(_MADE_BY)),
        ],
    )
