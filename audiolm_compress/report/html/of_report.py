"""A report as the content of a page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm_compress.report import rows
from audiolm_compress.report.html.content import Content

if TYPE_CHECKING:
    from audiolm_compress.report.report import Report


def of_report(report: Report) -> Content:
    """Both models under the names that tables give them, the candidate's folder as the title."""
    baseline, candidate = report.baseline, report.candidate
    machine = report.environment.get("device_name") or report.environment.get("device", "an unnamed device")
    return Content(
        title=Path(candidate.source).name or candidate.source,
        lead=(
            f"{candidate.source} against the baseline {baseline.source}, on {len(candidate.clips)} test "
            f"clips, measured on {machine}."
        ),
        sides={"baseline": baseline, "candidate": candidate},
        differences={"candidate": report.differences},
        environment=report.environment,
        command=_command(report),
        notes=[
            *rows.notes(baseline, candidate, {}, report.steps, report.notes),
            *rows.further_lines(report.further, candidate),
        ],
        steps=report.steps,
        goals=report.goals,
        further=report.further,
    )


def _command(report: Report) -> str:
    """What makes the same again: the run by the recipe beside the report, without passes the comparison."""
    models = [report.baseline.source, report.candidate.source]
    if not report.steps:
        return shlex.join(["audiolm-compress", "bench", *models])
    recipe = str(Path(models[1], "recipe.yaml"))
    return shlex.join(["audiolm-compress", "run", recipe, "--out", f"{models[1]}-again"])
