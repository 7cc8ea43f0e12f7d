"""The report: two models, what was done between them, and whether that was worth it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.recipe_sections import Goals
from audiolm_compress.report.differences import differences
from audiolm_compress.report.goals import Goal, judge
from audiolm_compress.report.json_form import read, read_paired, written
from audiolm_compress.report.step import Step

if TYPE_CHECKING:
    from rich.console import RenderableType

    from audiolm_compress.report.html.settings import PageSettings


SCHEMA = 2  # of report.json; 1 had fixed scores without intervals, and no number


@dataclass(frozen=True)
class Report:
    """What a recipe gave, in numbers.

    Attributes:
        baseline: the model before.
        candidate: the model after, as loaded from its folder.
        steps: what every pass did, in order; empty if the two are simply two models.
        environment: machine, versions, commit, seed.
        differences: score -> paired comparison with its interval.
        goals: what was asked for and whether it was reached.
        notes: on the run as a whole.
        further: the baseline under other prompts or decode settings, by name; for the reader, not for goals.
    """

    baseline: Measurements
    candidate: Measurements
    steps: Sequence[Step]
    environment: Mapping[str, Any]
    differences: Mapping[str, PairedResult]
    goals: Sequence[Goal]
    notes: Sequence[str] = ()
    further: Mapping[str, Measurements] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        baseline: Measurements,
        candidate: Measurements,
        *,
        steps: Sequence[Step] = (),
        environment: Mapping[str, Any],
        goals: Goals | None = None,
        notes: Sequence[str] = (),
        further: Mapping[str, Measurements] | None = None,
    ) -> Report:
        """Compare two measured models.

        Raises:
            DataError: they were not measured on the same clips.
        """
        found = differences(baseline, candidate)
        judged = judge(goals or Goals(), baseline, candidate, found)
        return cls(
            baseline,
            candidate,
            tuple(steps),
            environment,
            found,
            tuple(judged),
            tuple(notes),
            dict(further or {}),
        )

    @property
    def goals_met(self) -> bool:
        """Whether every goal is reached; true without goals."""
        return all(goal.met for goal in self.goals)

    def to_json(self) -> str:
        """The whole report; :meth:`from_json` reads it back equal."""
        content = {
            "schema": SCHEMA,
            "baseline": self.baseline.to_dict(),
            "candidate": self.candidate.to_dict(),
            "steps": [asdict(step) for step in self.steps],
            "environment": self.environment,
            "differences": {score: asdict(found) for score, found in self.differences.items()},
            "goals": [asdict(goal) for goal in self.goals],
            "notes": list(self.notes),
            "further": {name: side.to_dict() for name, side in self.further.items()},
        }
        return written(content)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: it is no report, or one in the form of another version.
        """
        content = read(text, "report", SCHEMA, ("baseline", "candidate"))
        return cls(
            baseline=Measurements.from_dict(content["baseline"]),
            candidate=Measurements.from_dict(content["candidate"]),
            steps=tuple(Step(**step) for step in content["steps"]),
            environment=content["environment"],
            differences={score: read_paired(found) for score, found in content["differences"].items()},
            goals=tuple(Goal(**goal) for goal in content["goals"]),
            notes=tuple(content.get("notes", ())),
            further={name: Measurements.from_dict(side) for name, side in content.get("further", {}).items()},
        )

    def table(self) -> str:
        """The comparison as plain text, 110 columns wide."""
        from audiolm_compress.report.plain_text import plain_text

        return plain_text(self, 110)

    def __rich__(self) -> RenderableType:
        """The comparison for a terminal."""
        from audiolm_compress.report.table import render

        return render(self)

    def to_markdown(self) -> str:
        """The comparison, every pass, how it was measured and sample answers."""
        from audiolm_compress.report.markdown import render

        return render(self)

    def to_html(self, settings: PageSettings | None = None) -> str:
        """The comparison as one page that needs no network: plots, and every clip to hear and to read.

        Args:
            settings: how many clips, and how much of their audio. Their files are read now; of those that are
                gone, the page says so.
        """
        from audiolm_compress.report.html import of_report, render

        return render(of_report(self), settings)
