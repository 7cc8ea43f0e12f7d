"""What a page is about: measured models, what was done between them, and how a reader repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.goals import Goal
from audiolm_compress.report.step import Step


@dataclass(frozen=True)
class Content:
    """All that is shown.

    Attributes:
        kind: what the page is, above its heading.
        title: heading of the page.
        lead: one sentence below it.
        sides: the models by name, the baseline first; plots and clips show all of them.
        differences: by name of a side other than the first: score -> comparison with the first.
        environment: machine, versions, commit, seed.
        command: repeats the run.
        notes: how it was measured, and all that was left out, fallen back from or left undone.
        steps: what every pass did; empty if no recipe lies between the models.
        goals: what was asked for and whether it was reached.
        further: models that the main table alone shows.
    """

    kind: str
    title: str
    lead: str
    sides: Mapping[str, Measurements]
    differences: Mapping[str, Mapping[str, PairedResult]]
    environment: Mapping[str, Any]
    command: str
    notes: Sequence[str] = ()
    steps: Sequence[Step] = ()
    goals: Sequence[Goal] = ()
    further: Mapping[str, Measurements] | None = None

    @property
    def scores(self) -> list[str]:
        """The scores that any model has, in the order of columns."""
        every = [*self.sides.values(), *(self.further or {}).values()]
        return [name for name in SCORES if any(name in side.scores for side in every)]
