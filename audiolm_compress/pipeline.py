"""From a recipe to a smaller model and its report, as one loop.

    recipe -> data -> rehearse -> pass 1 ... pass n -> save -> reload -> measure both -> report

What is reported is what was saved and loaded again. Baseline and candidate are measured together, so that
they can be timed in turns; with ``benchmark.latency.interleave: false`` the baseline comes before the passes.
It is asked as the candidate is, where passes have changed prompts or decode settings (``fair_baseline.py``).

Under ``accelerate launch`` all processes go through the loop in step and share calibration, training and
answers; the main one alone times the models and writes the folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from audiolm_compress.data.example import Example
from audiolm_compress.fair_baseline import fair_baseline
from audiolm_compress.folders import check_replaceable, whole_folder
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.measurement.process import Model, measure, measure_together
from audiolm_compress.passes.base import Context, Pass, Progress, Silent
from audiolm_compress.passes.search import Search
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.recipe_steps import at_pass, with_baseline
from audiolm_compress.rehearsal import rehearse
from audiolm_compress.reload_check import Behaviour
from audiolm_compress.report import Report, Step
from audiolm_compress.report.files import write_report
from audiolm_compress.run_data import checked_clips, feature_cache, load_calibration, load_training
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.asking import Asking
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
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
) -> Result:
    """Make a smaller model by a recipe, and measure what that cost.

    All processes of a launch must call it, where they find the same files; all get the result.

    Args:
        recipe: YAML file, mapping or ``Recipe``.
        baseline: in place of the recipe's; anything that ``load_model`` takes.
        out: folder to write; default ``out/<recipe name>``. A model folder that is there is replaced in the
            end; anything else is left alone and stops the run.
        device: where both models run; default: cuda if there is one.
        overrides: changes to the recipe, such as ``passes.1.bits=3``.
        progress: where to show the state of the run.
        before: measurements of the baseline, if it was measured on this machine by the same settings already,
            as for the trials of a search; then the two are not timed in turns.

    Raises:
        AudioLMError: recipe, baseline, data or a pass cannot be used; nothing is written then.

    Example:
        >>> result = apply_recipe("recipes/gemma2_4bit.yaml")  # doctest: +SKIP
        >>> print(result.report.table())  # doctest: +SKIP
    """
    recipe = with_baseline(load_recipe(recipe, overrides), baseline)
    target = Path("out", recipe.name) if out is None else Path(out)
    check_replaceable(target, store.is_model_folder)
    device = own_device(device)
    progress = progress or Silent()
    progress.stage("reading the clips")
    calibration = load_calibration(recipe, progress)
    training = load_training(recipe, progress)
    clips = checked_clips(recipe, progress)
    progress.stage("rehearsal")
    rehearsed = rehearse(recipe, calibration, progress, training.examples)
    notes = [*training.notes, *(f"rehearsal: {note}" for note in rehearsed.notes)]
    measuring: dict[str, Any] = {"device": device, "seed": recipe.seed, "progress": progress}
    with _folder_of_all(target) as work:
        if before is not None:
            notes += [
                "the baseline was measured before this run, on the same machine",
                "the two were not timed in turns: what the machine has drifted since is in the difference",
            ]
        elif not recipe.benchmark.latency.interleave:
            progress.stage("measuring the baseline")
            before = measure(recipe.baseline, clips, recipe.benchmark, name="baseline", **measuring)
        model = load_model(recipe.baseline, device=device)
        own = Asking.of(model)
        steps = apply_passes(model, recipe, calibration, progress, training.examples)
        progress.stage("saving")
        progress.start("saving, loading and comparing the two", 1)
        on_main(lambda: store.write(model, work))
        model = _reload(model, work, calibration)
        asked = Asking.of(model)
        candidate = Model("candidate", work)
        progress.stage("measuring")
        if before is None:
            baseline_asked = Model("baseline", recipe.baseline, None if asked == own else asked)
            fair, after = measure_together([baseline_asked, candidate], clips, recipe.benchmark, **measuring)
            known = [(asked, fair)]
        else:
            [after] = measure_together([candidate], clips, recipe.benchmark, **measuring)
            known = [(own, before)]
        best = searched_for_itself(recipe, calibration, progress, device)
        against = fair_baseline(
            known,
            own,
            asked,
            best,
            lambda name, asking: measure(
                recipe.baseline, clips, recipe.benchmark, name=name, asking=asking, **measuring
            ),
        )
        report = Report.of(
            against.fair,
            replace(after, source=str(target)),
            steps=steps,
            environment=describe_environment(device, recipe.seed) | {"data": after.environment["data"]},
            goals=recipe.goals,
            further=against.further,
            notes=[*against.notes, *notes],
        )
        report = from_main(report)  # seconds and devices are those of each process
        on_main(lambda: write_report(report, recipe, work))
    return Result(model, report, target)


def apply_passes(
    model: Salmonn,
    recipe: Recipe,
    calibration: Sequence[Example],
    progress: Progress,
    training: Sequence[Example] = (),
    only: type[Pass] = Pass,
) -> list[Step]:
    """Apply the recipe's passes to ``model`` in place, in order; each has its own seed.

    Args:
        model: the baseline.
        recipe: names the passes.
        calibration: clips that they calibrate on.
        progress: shows a line a pass.
        training: clips that passes which learn get besides; without them they learn from ``calibration``.
        only: passes of other types are left out; positions and seeds stay.

    Raises:
        PassError: a pass is impossible here; says its position and what was done before it.
    """

    @cache
    def reference() -> Salmonn:
        return load_model(recipe.baseline, device=model.device)

    steps: list[Step] = []
    with feature_cache(recipe) as features:
        for position, entry in enumerate(recipe.passes, start=1):
            if not isinstance(entry, only):
                continue
            begin = time.monotonic()
            progress.stage(f"pass {position} of {len(recipe.passes)}: {entry.kind}")
            seed = recipe.seed * 1_000 + position
            rng = torch.Generator().manual_seed(seed)
            context = Context(calibration, rng, reference, progress, training, features)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                with at_pass(recipe, position):
                    done = entry.apply(model, context)
            steps.append(Step.of(entry, done, time.monotonic() - begin, model.weight_bytes()))
            progress.note(f"{sum(steps[-1].weight_bytes.values()) / 2**20:.2f} MiB; {done.summary}")
    return steps


def searched_for_itself(
    recipe: Recipe, calibration: Sequence[Example], progress: Progress, device: str
) -> Asking | None:
    """What the recipe's searches without its other passes find for the baseline; None if it has none."""
    if not any(isinstance(entry, Search) for entry in recipe.passes):
        return None
    progress.stage("searching for the baseline as well")
    model = load_model(recipe.baseline, device=device)
    apply_passes(model, recipe, calibration, progress, only=Search)
    return Asking.of(model)


def _reload(model: Salmonn, folder: Path, calibration: Sequence[Example]) -> Salmonn:
    """The model that ``folder`` holds, after making sure that it behaves as the one that was saved."""
    reloaded = load_model(folder, device=model.device)
    on_main(lambda: Behaviour.of(model, calibration).check(Behaviour.of(reloaded, calibration)))
    return reloaded


@contextmanager
def _folder_of_all(target: Path) -> Iterator[Path]:
    """``whole_folder`` of the main process, in all of them."""
    with ExitStack() as stack:
        yield on_main(lambda: stack.enter_context(whole_folder(target, store.is_model_folder)))
        on_main(stack.close)  # without an error, so that the folder becomes the target
