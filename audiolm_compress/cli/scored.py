"""Scores of files of answers, and what lies between two of them, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.differences import HOW_NOISE_IS_JUDGED, HOW_VERDICTS_ARE_REACHED, verdict
from audiolm_compress.report.table import table

if TYPE_CHECKING:
    from audiolm_compress.measurement.answer_scores import FileScores
    from audiolm_compress.metrics.bootstrap import PairedResult


def shown(side: FileScores) -> RenderableType:
    """A row a score, and below what the figures do not tell."""
    made = table("", ("score", "value", "95 % interval", "clips"))
    for name, found in side.scores.items():
        interval = f"{found.low:.4f} to {found.high:.4f}"
        made.add_row(SCORES[name].title, f"{found.value:.4f}", interval, str(found.clips))
    lines = []
    if side.edits is not None:
        edits = side.edits
        lines.append(
            f"{edits.errors} errors in {edits.words} words: {edits.substitutions} substitutions, "
            f"{edits.deletions} deletions, {edits.insertions} insertions"
        )
    reasons: dict[str, list[str]] = {}
    for name, reason in side.unscored.items():
        reasons.setdefault(reason, []).append(SCORES[name].title)
    lines += [f"no {', '.join(titles)}: {reason}" for reason, titles in reasons.items()]
    return Group(
        Text(side.source, style="bold"), made, *(Text(f"- {line}") for line in (*lines, *side.notes))
    )


def compared(between: Mapping[str, PairedResult]) -> RenderableType:
    """The second file against the first, a row a score."""
    made = table(
        "\nSecond file against first",
        ("score", "first", "second", "difference", "95 % interval", "p", "verdict"),
    )
    for name, found in between.items():
        low, high = found.difference_interval.low, found.difference_interval.high
        made.add_row(
            SCORES[name].title,
            f"{found.baseline:.4f}",
            f"{found.candidate:.4f}",
            f"{found.difference:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
            f"{found.p_value:.4f}",
            verdict(name, found),
        )
    return Group(made, Text(f"- {HOW_NOISE_IS_JUDGED}"), Text(f"- {HOW_VERDICTS_ARE_REACHED}"))
