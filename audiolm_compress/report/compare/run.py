"""One measured model among several, and what it costs beside its own baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.goals import Goal


@dataclass(frozen=True)
class Cost:
    """A figure of which less is better.

    Attributes:
        name: in CSV and options.
        title: in tables.
        attribute: of ``Measurements``.
        unit: of that.
    """

    name: str
    title: str
    attribute: str
    unit: Literal["bytes", "s"]

    def of(self, side: Measurements) -> float | None:
        """The figure of a model; None if it was not measured."""
        return getattr(side, self.attribute)


COSTS: Mapping[str, Cost] = {
    cost.name: cost
    for cost in (
        Cost("weights", "weights", "weight_bytes", "bytes"),
        Cost("peak_memory", "peak mem.", "peak_memory_bytes", "bytes"),
        Cost("ttft", "TTFT", "ttft_s", "s"),
        Cost("tpot", "TPOT", "tpot_s", "s"),
    )
}
COLUMNS = (*COSTS, *SCORES)


@dataclass(frozen=True)
class Run:
    """A model and the one that it is compared with.

    Attributes:
        name: tells it from the other runs.
        file: where its figures were read.
        side: its measurements.
        baseline: those of its own baseline; None if it is one, or was measured alone.
        differences: from that baseline: score -> paired comparison.
        goals: what its recipe asked for; empty without a recipe.
        again: further measurements of the same model, of baselines that several runs measured.
    """

    name: str
    file: Path
    side: Measurements
    baseline: Measurements | None = None
    differences: Mapping[str, PairedResult] | None = None
    goals: tuple[Goal, ...] = ()
    again: tuple[Measurements, ...] = ()

    @property
    def against(self) -> Measurements:
        """Its own baseline, which is itself where it has none."""
        return self.baseline or self.side

    def values(self, cost: Cost) -> list[float]:
        """The figure as often as it was measured."""
        found = [cost.of(side) for side in (self.side, *self.again)]
        return [value for value in found if value is not None]

    def ratio(self, cost: Cost) -> float | None:
        """The figure by that of its own baseline; 1 of a baseline, None if one of the two is missing."""
        if self.baseline is None:
            return 1.0
        before, after = cost.of(self.baseline), cost.of(self.side)
        return None if not before or after is None else after / before

    def difference(self, score: str) -> PairedResult | None:
        """The paired comparison with its own baseline, where both have the score."""
        return (self.differences or {}).get(score)


def model_key(side: Measurements) -> tuple[object, ...]:
    """Equal for measurements of what is, to all appearance, the same model that gave the same answers."""
    return (side.source, side.weight_bytes, tuple((clip.testset_id, clip.text) for clip in side.clips))


def baselines(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """The baselines of ``runs``, the same model once, with all its measurements."""
    found: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        if run.baseline is not None:
            measured = Run(run.baseline.source, run.file, run.baseline)
            found.setdefault(model_key(run.baseline), []).append(measured)
    single = len(found) == 1
    made = []
    for number, (first, *others) in enumerate(found.values(), start=1):
        again: list[Measurements] = []
        for other in others:
            if other.side != first.side and other.side not in again:
                again.append(other.side)
        name = f"baseline {first.name}" if single else f"baseline {number}, {first.name}"
        made.append(Run(name, first.file, first.side, again=tuple(again)))
    return tuple(made)
