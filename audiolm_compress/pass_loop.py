"""The recipe's passes on a model, in their order; of a run that was cut off, those still to be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from audiolm_compress.data.example import Example
from audiolm_compress.kept_stages import Stages
from audiolm_compress.passes.base import Context, Pass, Progress
from audiolm_compress.recipe import Recipe
from audiolm_compress.recipe_steps import at_pass
from audiolm_compress.reload_check import Behaviour
from audiolm_compress.report import Step
from audiolm_compress.run_data import feature_cache
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.stage_keys import pass_seed
from audiolm_compress.training.shards import on_main


def compressed(
    recipe: Recipe,
    keys: Sequence[str],
    calibration: Sequence[Example],
    training: Sequence[Example],
    device: str,
    progress: Progress,
    stages: Stages,
) -> tuple[Salmonn, list[Step]]:
    """The model that the recipe's passes leave, as loaded from its folder in ``stages``; and what they did.

    Passes whose outcome is kept there are not applied again. Arguments are those of ``apply_passes`` and
    ``stage_keys``.
    """
    steps = stages.newest(keys)
    model = stages.load(keys, steps, device) if steps else load_model(recipe.baseline, device=device)
    if len(steps) == len(recipe.passes):
        return model, steps
    steps = apply_passes(
        model,
        recipe,
        calibration,
        progress,
        training,
        done=steps,
        after=lambda done: stages.keep(keys, done, model),
    )
    progress.stage("loading what was saved, and comparing the two")
    with stages.valid(keys, len(steps)):
        return _reload(model, stages.model_folder(keys, len(steps)), calibration), steps


def apply_passes(
    model: Salmonn,
    recipe: Recipe,
    calibration: Sequence[Example],
    progress: Progress,
    training: Sequence[Example] = (),
    only: type[Pass] = Pass,
    done: Sequence[Step] = (),
    after: Callable[[Sequence[Step]], None] = lambda steps: None,
) -> list[Step]:
    """Apply the recipe's passes to ``model`` in place, in order; each has its own seed.

    Args:
        model: the baseline.
        recipe: names the passes.
        calibration: clips that they calibrate on.
        progress: shows a line a pass.
        training: clips that passes which learn get besides; without them they learn from ``calibration``.
        only: passes of other types are left out; positions and seeds stay.
        done: of passes that ``model`` has behind it; the recipe's next one is the first to be applied.
        after: is called after each pass with what was done so far.

    Raises:
        PassError: a pass is impossible here; says its position and what was done before it.
    """

    @cache
    def reference() -> Salmonn:
        return load_model(recipe.baseline, device=model.device)

    steps = list(done)
    with feature_cache(recipe) as features:
        for position, entry in enumerate(recipe.passes, start=1):
            if position <= len(done) or not isinstance(entry, only):
                continue
            begin = time.monotonic()
            progress.stage(f"pass {position} of {len(recipe.passes)}: {entry.kind}")
            seed = pass_seed(recipe, position)
            rng = torch.Generator().manual_seed(seed)
            context = Context(calibration, rng, reference, progress, training, features)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                with at_pass(recipe, position):
                    told = entry.apply(model, context)
            steps.append(Step.of(entry, told, time.monotonic() - begin, model.weight_bytes()))
            progress.note(f"{sum(steps[-1].weight_bytes.values()) / 2**20:.2f} MiB; {told.summary}")
            after(steps)
    return steps


def _reload(model: Salmonn, folder: Path, calibration: Sequence[Example]) -> Salmonn:
    """The model that ``folder`` holds, after making sure that it behaves as the one that was saved."""
    reloaded = load_model(folder, device=model.device)
    on_main(lambda: Behaviour.of(model, calibration).check(Behaviour.of(reloaded, calibration)))
    return reloaded
