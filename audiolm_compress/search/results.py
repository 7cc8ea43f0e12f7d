"""What a study has found so far: every trial, the Pareto front, the best recipe, and their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm_compress.errors import AudioLMError
from audiolm_compress.kept_stages import stages_folder
from audiolm_compress.recipe import Recipe
from audiolm_compress.report import Goal, Report
from audiolm_compress.report.goals import judge
from audiolm_compress.salmonn import store
from audiolm_compress.search.baseline import write_whole
from audiolm_compress.search.front import best_of, pareto_front
from audiolm_compress.search.objectives import OBJECTIVES
from audiolm_compress.search.plot import pareto_svg
from audiolm_compress.search.space import Space
from audiolm_compress.search.study import Study, configuration_of, outcome

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from rich.console import RenderableType

BEST, FRONT, PLOT = "best.yaml", "pareto.json", "pareto.svg"


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: in the study, and of its folder.
        outcome: see `study.py`.
        picked: key path -> option.
        machine: where it ran.
        message: why it was refused or lost.
        values: of the objectives, if it was measured.
        goals: of the recipe, as this trial reached them.
    """

    number: int
    outcome: str
    picked: Mapping[str, Any]
    machine: str
    message: str = ""
    values: tuple[float, ...] = ()
    goals: tuple[Goal, ...] = ()

    @property
    def missed(self) -> list[str]:
        """Names of the goals that it misses."""
        return [goal.name for goal in self.goals if not goal.met]


@dataclass(frozen=True)
class Results:
    """All trials of a study and what follows from them.

    Attributes:
        name: of the study.
        objectives: names, in the order of the values.
        trials: by number.
        front: numbers of the measured trials that no other dominates.
        best: number of the one that ``best.yaml`` repeats; None if none meets the goals. It is not of
            the front where trials that miss goals dominate it.
        why: how the best was chosen, or why there is none.
    """

    name: str
    objectives: tuple[str, ...]
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    best: int | None
    why: str

    @classmethod
    def of(cls, study: Study, recipe: Recipe, folder: Path) -> Results:
        """Read the study and the reports of its trials; goals are judged as ``recipe`` has them now.

        Raises:
            AudioLMError: a trial was measured but its report is not in ``folder``.
        """
        objectives = recipe.search.objectives
        trials = tuple(_trial(found, recipe, folder) for found in study.trials() if configuration_of(found))
        measured = [trial for trial in trials if trial.outcome == "measured"]
        points = [trial.values for trial in measured]
        maximize = [OBJECTIVES[name].maximize for name in objectives]
        front = tuple(measured[index].number for index in pareto_front(points, maximize))
        index = best_of(points, maximize, [not trial.missed for trial in measured])
        best = None if index is None else measured[index]
        return cls(
            recipe.name,
            objectives,
            trials,
            front,
            best.number if best else None,
            _why(measured, best, best is not None and best.number in front, objectives),
        )

    @property
    def shown(self) -> list[int]:
        """Numbers of the front and the best: those to choose from."""
        return sorted({*self.front, *(() if self.best is None else (self.best,))})

    def trial(self, number: int) -> Trial:
        """The trial of that number."""
        return next(trial for trial in self.trials if trial.number == number)

    def count(self, outcome: str) -> int:
        """How many trials ended like that."""
        return sum(trial.outcome == outcome for trial in self.trials)

    def to_json(self) -> str:
        """The content of ``pareto.json``."""
        objectives = [
            {"name": name, "title": OBJECTIVES[name].title, "maximize": OBJECTIVES[name].maximize}
            for name in self.objectives
        ]
        content = asdict(self) | {"objectives": objectives}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def __rich__(self) -> RenderableType:
        """The Pareto front as a table, and what became of the other trials."""
        from rich.console import Group
        from rich.text import Text

        from audiolm_compress.report.table import table

        machines = {trial.machine for trial in self.trials if trial.values}
        titles = [OBJECTIVES[name].title for name in self.objectives]
        shown = table(f"Pareto front of {self.name}", ("trial", *titles, "goals missed"))
        lines = []
        for trial in map(self.trial, self.shown):
            number = f"{trial.number}{' *' if trial.number == self.best else ''}"
            shown.add_row(number, *(f"{value:.4f}" for value in trial.values), ", ".join(trial.missed))
            where = f" (on {trial.machine})" if len(machines) > 1 else ""
            picked = ", ".join(f"{name}={value}" for name, value in trial.picked.items())
            lines.append(f"trial {trial.number}{where}: {picked}")
        ended = ("measured", "refused", "repeated", "lost", "running")
        lines += [
            ", ".join(f"{self.count(how)} {how}" for how in ended if self.count(how)),
            *(f"trial {t.number} refused: {t.message}" for t in self.trials if t.outcome == "refused"),
            f"x: ratio to the baseline on the trial's machine. {self.why}",
        ]
        return Group(shown, Text("\n".join(f"- {line}" for line in lines)))


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial's model and report are."""
    return folder / "trials" / f"{number:04d}"


def write_results(results: Results, space: Space, study: Study, folder: Path, keep_models: bool) -> None:
    """Write what was found into ``folder``, and remove what is no longer needed of the trials.

    pareto.json    all trials, the front and the best
    pareto.svg     the front, each objective against the first
    best.yaml      the best recipe with everything decided; missing while no trial meets the goals
    """
    write_whole(folder / FRONT, results.to_json())
    measured = [trial for trial in results.trials if trial.values]
    write_whole(
        folder / PLOT,
        pareto_svg(
            results.name,
            [OBJECTIVES[name].title for name in results.objectives],
            [trial.values for trial in measured],
            [str(trial.number) for trial in measured],
            [trial.number in results.front for trial in measured],
        ),
    )
    if results.best is None:
        (folder / BEST).unlink(missing_ok=True)
    else:
        write_whole(folder / BEST, _best_recipe(results, space, study))
    for trial in results.trials:
        if trial.outcome in ("measured", "refused") and trial.number not in results.shown and not keep_models:
            (trial_folder(folder, trial.number) / store.WEIGHTS).unlink(missing_ok=True)
        if trial.outcome == "lost":
            work = trial_folder(folder, trial.number)
            for left in (stages_folder(work), work):
                shutil.rmtree(left, ignore_errors=True)


def _trial(found: FrozenTrial, recipe: Recipe, folder: Path) -> Trial:
    attributes = found.user_attrs
    trial = Trial(
        found.number,
        outcome(found),
        attributes["picked"],
        attributes["owner"]["machine"],
        str(attributes.get("message", "")),
    )
    if trial.outcome != "measured":
        return trial
    file = trial_folder(folder, found.number) / "report.json"
    try:
        report = Report.from_json(file.read_text(encoding="utf-8"))
    except OSError:
        raise AudioLMError(
            f"search: trial {found.number} was measured, but its report {file} is gone; all processes of a "
            "study need the same output folder, and its trials must stay there"
        ) from None
    goals = judge(recipe.goals, report.baseline, report.candidate, report.differences)
    return Trial(
        trial.number, trial.outcome, trial.picked, trial.machine, "", tuple(found.values), tuple(goals)
    )


def _why(measured: Sequence[Trial], best: Trial | None, on_front: bool, objectives: Sequence[str]) -> str:
    first = f"{'most' if OBJECTIVES[objectives[0]].maximize else 'least'} {objectives[0]}"
    if best is not None and best.goals:
        beside = "" if on_front else "; trials that miss goals dominate it"
        return f"Best is trial {best.number} (*): of those that meet all goals, the one of {first}{beside}"
    if best is not None:
        return f"The recipe sets no goals, so best is trial {best.number} (*), the one of {first}"
    if not measured:
        return "Nothing was measured, so there is no best recipe"
    near = min(measured, key=lambda trial: len(trial.missed))
    return (
        f"No trial meets all goals, so there is no best recipe; trial {near.number} misses the fewest: "
        + (", ".join(near.missed))
    )


def _best_recipe(results: Results, space: Space, study: Study) -> str:
    """Plain YAML with every path resolved, so that it runs from anywhere on this machine."""
    assert results.best is not None
    best = results.trial(results.best)
    (found,) = [trial for trial in study.trials() if trial.number == best.number]
    configuration = configuration_of(found)
    assert configuration is not None
    recipe = space.recipe(configuration)
    figures = ", ".join(
        f"{OBJECTIVES[name].title} {value:.4f}"
        for name, value in zip(results.objectives, best.values, strict=True)
    )
    named = recipe.model_copy(update={"name": f"{recipe.name}_best"})
    return (
        f"# Trial {best.number} of the search {results.name}: {figures}.\n# {results.why}.\n{named.to_yaml()}"
    )
