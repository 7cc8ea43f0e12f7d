"""From a recipe to a smaller model and its report, as one loop.

    recipe -> data -> rehearse -> pass 1 ... pass n -> save -> reload -> measure both -> report

What is reported is what was saved and loaded again. Baseline and candidate are measured together, so that
they can be timed in turns; with ``benchmark.latency.interleave: false`` the baseline comes before the passes.
It is asked as the candidate is, where passes have changed prompts or decode settings (``fair_baseline.py``).

Under ``accelerate launch`` all processes go through the loop in step and share calibration, training and
answers; the main one alone times the models and writes the folder.

What a stage gives is kept until the run is done, so that one that was cut off goes on (``kept_stages.py``).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from audiolm_compress.data.example import Example
from audiolm_compress.fair_baseline import fair_baseline
from audiolm_compress.faults import explained
from audiolm_compress.kept_stages import Stages, stages_of
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.measurement.process import Model, measure_together
from audiolm_compress.pass_loop import apply_passes, compressed
from audiolm_compress.passes.base import Progress, Silent
from audiolm_compress.passes.search import Search
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.recipe_steps import with_baseline
from audiolm_compress.rehearsal import rehearse
from audiolm_compress.report import Report
from audiolm_compress.report.files import write_report
from audiolm_compress.run_data import (
    CheckedClips,
    checked_clips,
    load_calibration,
    load_training,
)
from audiolm_compress.run_output import check_output
from audiolm_compress.salmonn.asking import Asking
from audiolm_compress.salmonn.load import check_source, load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.stage_keys import stage_keys
from audiolm_compress.training.features import digest
from audiolm_compress.training.shards import from_main, on_main, own_device


@dataclass(frozen=True)
class Result:
    """What a recipe gave.

    Attributes:
        model: the candidate, as loaded from ``path``.
        report: both models' measurements and what every pass did.
        path: folder of the candidate, with the report in it.
    """

    model: Salmonn
    report: Report
    path: Path


def apply_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    baseline: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    before: Measurements | None = None,
    resume: bool = True,
    replace: bool = False,
) -> Result:
    """Make a smaller model by a recipe, and measure what that cost.

    All processes of a launch must call it, where they find the same files; all get the result.

    Args:
        recipe: YAML file, mapping or ``Recipe``.
        baseline: in place of the recipe's; anything that ``load_model`` takes.
        out: folder to write; default ``out/<recipe name>``. A former result of a recipe of this name is
            replaced in the end; anything else is left alone and stops the run.
        device: where both models run; default: cuda if there is one.
        overrides: changes to the recipe, such as ``passes.1.bits=3``.
        progress: where to show the state of the run.
        before: measurements of the baseline, if it was measured on this machine by the same settings already,
            as for the trials of a search; then the two are not timed in turns.
        resume: go on where an earlier call for the same folder was cut off, and keep what is needed to go on
            after this one. It takes room for two models beside ``out`` until the run is done.
        replace: ``out`` may hold any model but the baseline.

    Raises:
        AudioLMError: recipe, baseline, data or a pass cannot be used, the machine lacks memory or room, or
            another process writes the folder; what is at ``out`` is as before then.

    Example:
        >>> result = apply_recipe("recipes/gemma2_4bit.yaml")  # doctest: +SKIP
        >>> print(result.report.table())  # doctest: +SKIP
    """
    recipe = with_baseline(load_recipe(recipe, overrides), baseline)
    target = Path("out", recipe.name) if out is None else Path(out)
    check_output(target, recipe, replace)
    check_source(recipe.baseline)
    device = own_device(device)
    progress = progress or Silent()
    with stages_of(target, resume, progress) as stages, explained():
        return _run(recipe, target, device, progress, before, stages)


def _run(
    recipe: Recipe,
    target: Path,
    device: str,
    progress: Progress,
    before: Measurements | None,
    stages: Stages,
) -> Result:
    progress.stage("reading the clips")
    calibration = load_calibration(recipe, progress)
    training = load_training(recipe, progress)
    clips = checked_clips(recipe, progress)
    progress.stage("rehearsal")
    rehearsed = rehearse(recipe, calibration, progress, training.examples)
    notes = [*training.notes, *(f"rehearsal: {note}" for note in rehearsed.notes)]
    if before is not None:
        notes += [
            "the baseline was measured before this run, on the same machine",
            "the two were not timed in turns: what the machine has drifted since is in the difference",
        ]
    own, keys = _asking_and_keys(recipe, calibration, training.examples, device)
    measured = Measured(recipe, clips, device, progress, stages)
    if before is None and not recipe.benchmark.latency.interleave:
        progress.stage("measuring the baseline")
        [before] = measured([Model("baseline", recipe.baseline)], keys[0])
    model, steps = compressed(recipe, keys, calibration, training.examples, device, progress, stages)
    work = stages.model_folder(keys, len(steps))
    asked = Asking.of(model)
    candidate = Model("candidate", work)
    progress.stage("measuring")
    if before is None:
        baseline_asked = Model("baseline", recipe.baseline, None if asked == own else asked)
        fair, after = measured([baseline_asked, candidate], keys[-1])
        known = [(asked, fair)]
    else:
        [after] = measured([candidate], keys[-1])
        known = [(own, before)]
    best = searched_for_itself(recipe, calibration, progress, device, stages, keys[-1])
    against = fair_baseline(
        known,
        own,
        asked,
        best,
        lambda name, asking: measured([Model(name, recipe.baseline, asking)], keys[0])[0],
    )
    if stages.taken:
        taken = ", ".join(stages.taken)
        notes.append(f"this run went on where one had been cut off; taken from there as it was: {taken}")
    report = Report.of(
        against.fair,
        replaced(after, source=str(target)),
        steps=steps,
        environment=describe_environment(device, recipe.seed) | {"data": after.environment["data"]},
        goals=recipe.goals,
        further=against.further,
        notes=[*against.notes, *notes],
    )
    report = from_main(report)  # seconds and devices are those of each process

    def finish() -> None:
        with explained(work):
            write_report(report, recipe, work)
        stages.publish(work)

    on_main(finish)
    return Result(model, report, target)


def _asking_and_keys(
    recipe: Recipe, calibration: Sequence[Example], training: Sequence[Example], device: str
) -> tuple[Asking, list[str]]:
    """Of the baseline, which is in memory only meanwhile: it must not take what is measured next."""
    model = load_model(recipe.baseline, device=device)
    return Asking.of(model), on_main(lambda: stage_keys(recipe, model, calibration, training))


@dataclass(frozen=True)
class Measured:
    """Measures models as a recipe says, unless the run that was cut off has done so on this machine."""

    recipe: Recipe
    clips: CheckedClips
    device: str
    progress: Progress
    stages: Stages

    def __call__(self, models: Sequence[Model], key: str) -> list[Measurements]:
        """The measurements of ``models``, measured together; what they are made of is in ``key``."""
        recipe, names = self.recipe, " and ".join(model.name for model in models)
        asked = [None if model.asking is None else model.asking.model_dump_json() for model in models]
        benchmark = recipe.benchmark.model_dump_json()

        def measure() -> list[Measurements]:
            return measure_together(
                models,
                self.clips.source,
                recipe.benchmark,
                device=self.device,
                seed=recipe.seed,
                progress=self.progress,
            )

        return self.stages.recalled(
            f"measurements of {names}",
            digest(key, names, *asked, benchmark, self.clips.digest, recipe.seed, platform.node()),
            measure,
            lambda found: [one.to_dict() for one in found],
            lambda content: [Measurements.from_dict(one) for one in content],
        )


def searched_for_itself(
    recipe: Recipe,
    calibration: Sequence[Example],
    progress: Progress,
    device: str,
    stages: Stages,
    key: str,
) -> Asking | None:
    """What the recipe's searches without its other passes find for the baseline; None if it has none."""
    if not any(isinstance(entry, Search) for entry in recipe.passes):
        return None

    def search() -> Asking:
        progress.stage("searching for the baseline as well")
        model = load_model(recipe.baseline, device=device)
        apply_passes(model, recipe, calibration, progress, only=Search)
        return Asking.of(model)

    return stages.recalled(
        "what the searches found for the baseline",
        digest(key, "searches"),
        search,
        lambda asking: asking.model_dump(mode="json"),
        Asking.model_validate,
    )
