"""The cells that say how good two models are: every score with its interval, of all clips and of groups.

Below a figure stands its 95 % bootstrap interval, in brackets.
"""

from __future__ import annotations

from collections.abc import Mapping

from audiolm_compress.measurement.measurements import Edits, Group, Measurements, Score
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.differences import CERTAIN, group_differences

Row = tuple[str, ...]

HEADER: Row = ("score", "baseline", "candidate", "difference", "noise")
MOST_GROUPS = 12  # of one kind in a document; report.json has all
FEWEST_JUDGED = 10  # clips; of fewer, the spread is not known well enough to judge a group by
_NAMELESS = "no source named"


def quality_rows(
    baseline: Measurements, candidate: Measurements, found: Mapping[str, PairedResult]
) -> list[Row]:
    """Each score that a model has: name and clips, before, after, difference, verdict; edits below WER."""
    rows = []
    for name, row in _score_rows(baseline.scores, candidate.scores, found).items():
        rows.append(row)
        if name == "wer" and baseline.edits is not None and candidate.edits is not None:
            rows.append(_edits_row(baseline.edits, candidate.edits))
    return rows


def group_rows(baseline: Measurements, candidate: Measurements) -> dict[str, list[Row]]:
    """Common trait -> a row for each score of each group, with the group's name before it.

    Sources with most clips come first; of those beyond the first dozen only the number is told.
    """
    by: dict[str, list[tuple[Group, list[Row]]]] = {}
    for before, after, found in group_differences(baseline, candidate):
        rows = list(_score_rows(before.scores, after.scores, found, FEWEST_JUDGED).values())
        unscored = (f"not scored\n{before.clips} clips", "", "", "", "")
        by.setdefault(before.by, []).append((before, rows or [unscored]))
    tables = {}
    for trait, groups in by.items():
        if trait == "source":
            groups.sort(key=lambda pair: -pair[0].clips)
        table = [(group.name or _NAMELESS, *row) for group, rows in groups[:MOST_GROUPS] for row in rows]
        if (more := len(groups) - MOST_GROUPS) > 0:
            table.append((f"{more} more with fewer clips are in report.json", "", "", "", "", ""))
        tables[trait] = table
    return tables


def long_figure(score: Score | None) -> str:
    """A figure and, below it, its interval."""
    return "n/a" if score is None else f"{score.value:.4f}\n({score.low:.4f}-{score.high:.4f})"


def short_figure(score: Score) -> str:
    """The same where there is little room."""
    return f"{score.value:.4f}\n{_short(score.low)}-{_short(score.high)}"


def noise(result: PairedResult) -> str:
    """The verdict in one word."""
    if result.within_noise:
        return "within"
    return "beyond" if result.p_value <= CERTAIN else "perhaps"


def p_value(result: PairedResult) -> str:
    """To two digits, and as a bound where it is below a thousandth."""
    return f"{result.p_value:.2g}" if result.p_value >= 0.001 else "< 0.001"


def _score_rows(
    before: Mapping[str, Score],
    after: Mapping[str, Score],
    found: Mapping[str, PairedResult],
    fewest: int = 0,
) -> dict[str, Row]:
    return {
        name: (
            f"{kind.title}\n{(before.get(name) or after[name]).clips} clips",
            long_figure(before.get(name)),
            long_figure(after.get(name)),
            *_difference(found.get(name), fewest),
        )
        for name, kind in SCORES.items()
        if name in before or name in after
    }


def _difference(result: PairedResult | None, fewest: int) -> tuple[str, str]:
    """The difference with its interval, and the verdict, which takes so many clips."""
    if result is None:
        return ("", "")
    bounds = result.difference_interval
    return (
        f"{result.difference:+.4f}\n({bounds.low:+.4f} to {bounds.high:+.4f})",
        f"{noise(result)}\np {p_value(result)}" if result.clips >= fewest else "too few",
    )


def _edits_row(before: Edits, after: Edits) -> Row:
    sides = [(edits.substitutions, edits.deletions, edits.insertions) for edits in (before, after)]
    changes = [new - old for old, new in zip(*sides, strict=True)]
    counts = ["/".join(map(str, side)) for side in sides]
    return (f"sub/del/ins\n{before.words} words", *counts, "/".join(f"{c:+d}" for c in changes), "")


def _short(value: float) -> str:
    """At most five characters: .108, 1.52, -.030."""
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}".replace("0.", ".", 1)
