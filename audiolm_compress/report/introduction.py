"""What a report is about and how a reader makes the same again, worded once for all its forms."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiolm_compress.report.report import Report


def title(report: Report) -> str:
    """The candidate's folder without those around it."""
    return Path(report.candidate.source).name or report.candidate.source


def lead(report: Report) -> str:
    """One sentence: which models, how many clips, what machine."""
    baseline, candidate = report.baseline, report.candidate
    return (
        f"{candidate.source} against the baseline {baseline.source}, on {len(candidate.clips)} test clips, "
        f"measured on {machine(report.environment)}."
    )


def machine(environment: Mapping[str, Any]) -> str:
    """The device that the models ran on."""
    return str(environment.get("device_name") or environment.get("device", "an unnamed device"))


def command(report: Report) -> str:
    """What makes the same again: the run by the recipe beside the report, without passes the comparison."""
    models = [report.baseline.source, report.candidate.source]
    if not report.steps:
        return shlex.join(["audiolm-compress", "bench", *models])
    recipe = str(Path(models[1], "recipe.yaml"))
    return shlex.join(["audiolm-compress", "run", recipe, "--out", f"{models[1]}-again"])
