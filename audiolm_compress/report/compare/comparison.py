"""Runs in one table: ordered, with what may be compared between them and which of them none beats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.compare import published as league
from audiolm_compress.report.compare.files import read_runs
from audiolm_compress.report.compare.likeness import differing, same_baseline, same_clips
from audiolm_compress.report.compare.published import Published
from audiolm_compress.report.compare.run import COLUMNS, COSTS, Cost, Run, baselines
from audiolm_compress.report.html.pareto import Point, front

if TYPE_CHECKING:
    from rich.console import RenderableType

GIVEN = "given"
_TRADED = ("weights", "ttft")  # against each score


@dataclass(frozen=True)
class Comparison:
    """Any number of runs, each with its own baseline.

    Attributes:
        runs: in the order in which they are shown.
        columns: names of the costs and scores that are shown.
        published: figures of others, which nothing is computed from.
    """

    runs: tuple[Run, ...]
    columns: tuple[str, ...] = COLUMNS
    published: tuple[Published, ...] = ()

    @cached_property
    def baselines(self) -> tuple[Run, ...]:
        """What the runs are compared with, each once."""
        return baselines(self.runs)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Those shown, in the order of columns."""
        return tuple(cost for name, cost in COSTS.items() if name in self.columns)

    @property
    def scores(self) -> tuple[str, ...]:
        """Those shown that any run has, in the order of columns."""
        return tuple(
            name
            for name in SCORES
            if name in self.columns and any(name in run.side.scores for run in self.runs)
        )

    @cached_property
    def comparable(self) -> bool:
        """Whether scores may be compared between runs: all answered the same clips."""
        return same_clips(self.runs)

    @property
    def traded(self) -> tuple[Cost, ...]:
        """The costs shown that are traded for scores."""
        return tuple(cost for cost in self.costs if cost.name in _TRADED)

    def points(self, cost: Cost, score: str) -> list[Point]:
        """Baselines and runs that have both figures, as far as these may be compared between runs.

        Bytes of weights are the same wherever they are counted. Other costs are taken as ratios to a run's
        own baseline, which say something of the model only if that is the same for all.
        """
        if not self.comparable or (cost.name != "weights" and not same_baseline(self.runs)):
            return []
        found = []
        for run in (*self.baselines, *self.runs):
            figure = run.side.scores.get(score)
            value = cost.of(run.side) if cost.name == "weights" else run.ratio(cost)
            if figure is not None and value is not None:
                found.append(Point(run.name, value, figure.value, figure.low, figure.high))
        return found

    def front(self, cost: Cost, score: str) -> frozenset[str]:
        """Names of the Pareto-optimal: no other model is as good in both figures and better in one.

        Empty where there is nothing to choose between, or no ground to.
        """
        return self._fronts.get((cost.name, score), frozenset())

    @cached_property
    def _fronts(self) -> Mapping[tuple[str, str], frozenset[str]]:
        found = {}
        for cost in self.traded:
            for score in self.scores:
                points = self.points(cost, score)
                if len(points) < 2:
                    continue
                best = front(points, lower_is_better=SCORES[score].lower_is_better)
                reached = {(point.cost, point.score) for point in best}  # of equal models, all
                names = (point.name for point in points if (point.cost, point.score) in reached)
                found[cost.name, score] = frozenset(names)
        return found

    def notes(self) -> Iterator[str]:
        """What the runs differ in."""
        return differing(self.runs)

    def table(self) -> str:
        """The comparison as plain text, 80 columns wide."""
        from audiolm_compress.report.plain_text import plain_text

        return plain_text(self, 80)

    def __rich__(self) -> RenderableType:
        """The comparison for a terminal."""
        from audiolm_compress.report.compare.tables import render

        return render(self)

    def to_markdown(self) -> str:
        """The same tables and notes as a document."""
        from audiolm_compress.report.compare.tables import markdown

        return markdown(self)

    def to_csv(self) -> str:
        """A line for each baseline, run and published model, with plain numbers in bytes and seconds."""
        from audiolm_compress.report.compare.plain import csv_text

        return csv_text(self)

    def to_json(self) -> str:
        """The same lines as objects, with the notes on what the runs do not have in common."""
        from audiolm_compress.report.compare.plain import json_text

        return json_text(self)

    def to_html(self) -> str:
        """The same as one page that needs no network, with Pareto plots."""
        from audiolm_compress.report.compare.page import page

        return page(self)


def compare(
    runs: str | Path | Sequence[str | Path],
    *,
    sort: str = "weights",
    columns: Sequence[str] | None = None,
    published: bool = False,
) -> Comparison:
    """Put runs beside each other, each against its own baseline.

    Nothing is measured: figures, intervals and verdicts are those of the runs' files.

    Args:
        runs: folders that hold report.json or bench.json, such files under any name, or folders of such
            folders, as a search leaves them.
        sort: what the runs are ordered by, best first: ``weights``, ``peak_memory``, ``ttft`` or ``tpot``
            (as ratios to the run's own baseline), a score of ``metrics.scores.SCORES``, ``name``,
            or ``given`` for the order given.
        columns: the costs and scores to show; None: all that any run has.
        published: add the figures that the teams of SALMONN's hackathon published, as reference.

    Raises:
        DataError: a run is missing, is none, is damaged or has another schema (all are listed); or runs on
            different test clips are to be sorted by a score.

    Example:
        >>> print(compare(["out/a", "out/b"]).table())  # doctest: +SKIP
    """
    _known("column", columns or (), COLUMNS)
    _known("order", (sort,), (*COLUMNS, "name", GIVEN))
    read = read_runs([runs] if isinstance(runs, (str, Path)) else runs)
    if not read:
        raise DataError("compare: asked to compare no run; name at least one")
    if sort in SCORES and not same_clips(read):
        raise DataError(
            f"compare: asked to sort by {sort}, but the runs answered different test clips; sort by weights, "
            "peak_memory, ttft, tpot, name or given"
        )
    return Comparison(_sorted(read, sort), tuple(columns or COLUMNS), league.published() if published else ())


def _known(kind: str, asked: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise DataError(f"compare: unknown {kind} {', '.join(map(repr, unknown))}; known: {', '.join(names)}")


def _sorted(runs: Sequence[Run], by: str) -> tuple[Run, ...]:
    """Best first; runs without the figure last; equal ones in the order given."""
    if by == GIVEN:
        return tuple(runs)
    if by == "name":
        return tuple(sorted(runs, key=lambda run: run.name))

    def figure(run: Run) -> float | None:
        if by in SCORES:
            value = run.side.score(by)
            return value if value is None or SCORES[by].lower_is_better else -value
        return None if run.baseline is None else run.ratio(COSTS[by])

    found: Mapping[str, float | None] = {run.name: figure(run) for run in runs}
    return tuple(sorted(runs, key=lambda run: (found[run.name] is None, found[run.name] or 0.0)))
