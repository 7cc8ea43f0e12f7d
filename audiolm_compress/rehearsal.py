"""Trying a recipe before running it: settings against the real sizes, then every pass on a narrow twin.

A wrong order or an impossible setting is to stop a run in its first seconds, not after the baseline has been
measured and half of the passes are done. Settings that depend on sizes are checked by the passes' ``predict``
on the real model's outline. Then the passes really run, in order, on a random twin (``salmonn/twin.py``) and
some clips of noise. The twin's widths are so small that this is data enough: what the run would accept
is never refused here. Whether the run's own clips are data enough for the real widths, ``predict`` counts.
The errors are those of the run, with the same positions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.passes.base import Context, Pass, PassReport, Progress, Silent
from audiolm_compress.planner import calibration_texts, predict_passes
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.recipe import Recipe
from audiolm_compress.recipe_steps import at_pass
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model
from audiolm_compress.salmonn.twin import narrow_twin

_CLIPS = 6
_SECONDS = (2.0, 3.0, 2.5)  # of the clips, in turn: batches of mixed lengths are among what can go wrong
_NOISE = 0.05


@dataclass(frozen=True)
class Rehearsal:
    """What was tried.

    Attributes:
        reports: of every pass on the twin; None for one that was only checked against the real sizes.
        twin: as it came out, saved and loaded again; None if no pass could be tried on one.
        notes: what was not tried, and why.
    """

    reports: tuple[PassReport | None, ...]
    twin: Salmonn | None
    notes: tuple[str, ...]


def rehearse(
    recipe: Recipe, calibration: Sequence[Example] = (), progress: Progress | None = None
) -> Rehearsal:
    """Find out in seconds whether the passes of ``recipe`` can run in their order on its baseline.

    Args:
        recipe: its baseline may be without weights.
        calibration: the run's clips: counted for the real sizes, their tasks and texts taken for the twin;
            without them, the twin gets every prompt's task.
        progress: shows one line.

    Raises:
        PassError: a pass is impossible; says its position and what was done before it, as the run would.
        AudioLMError: the baseline's configs cannot be read.
    """
    progress = progress or Silent()
    progress.start("rehearsing the passes on a narrow twin", len(recipe.passes) + 1)
    outline = outline_model(recipe.baseline)
    twin = narrow_twin(outline.model, recipe.seed) if outline.tokenizer_known else None
    texts = calibration or calibration_texts(recipe)
    predict_passes(recipe, Sketch(outline.model, texts, outline.tokenizer_known))
    progress.advance()
    if twin is None:
        note = "no tokenizer beside the configs: checked against the sizes, but not tried"
        return Rehearsal((None,) * len(recipe.passes), None, (note,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is worth a warning, the run will say of the real model
        return _tried(recipe, twin, calibration, progress)


def _tried(recipe: Recipe, twin: Salmonn, calibration: Sequence[Example], progress: Progress) -> Rehearsal:
    clips = rehearsal_clips(twin, calibration, recipe.seed)
    source = recipe.baseline

    @cache
    def reference() -> Salmonn:
        return narrow_twin(outline_model(source).model, recipe.seed)

    reports: list[PassReport | None] = []
    notes: list[str] = []
    for position, entry in enumerate(recipe.passes, start=1):
        if type(entry).predict is Pass.predict:
            # Nothing says what a pass from outside needs; a small model might not have it.
            notes.append(f"pass {position} ({entry.kind}) cannot predict, so it was not tried")
            reports.append(None)
        else:
            context = Context(clips, torch.Generator().manual_seed(recipe.seed), reference)
            with torch.random.fork_rng(), at_pass(recipe, position):
                torch.manual_seed(recipe.seed)
                reports.append(entry.rehearsed(twin).apply(twin, context))
        progress.advance()
    with TemporaryDirectory() as folder:
        store.write(twin, Path(folder))
        return Rehearsal(tuple(reports), store.load(Path(folder)), tuple(notes))


def rehearsal_clips(model: Salmonn, calibration: Sequence[Example], seed: int) -> list[Example]:
    """A few clips of noise with the tasks and texts of the run's clips, tasks in turn."""
    if calibration:
        chosen = [calibration[index] for index in in_turn(calibration, _CLIPS)]
    else:
        tasks = [*model.prompts.test, *model.prompts.train] or ["asr"]
        text = "a man says that the quick brown fox jumps over the lazy dog"
        chosen = [
            Example(str(index), torch.empty(0), tasks[index % len(tasks)], text, (text,))
            for index in range(_CLIPS)
        ]
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for index in range(_CLIPS):
        clip = chosen[index % len(chosen)]
        samples = round(_SECONDS[index % len(_SECONDS)] * SAMPLE_RATE)
        noise = _NOISE * torch.randn(samples, generator=generator)
        clips.append(
            Example(f"rehearsal {index}", noise, clip.task, clip.text, clip.references, clip.question)
        )
    return clips
