"""Trying a recipe before running it: settings against the real sizes, then every pass on a narrow twin.

A wrong order or an impossible setting is to stop a run in its first seconds, not after the baseline has been
measured and half of the passes are done. Settings that depend on sizes are checked by the passes' ``predict``
on the real model's outline. Then the passes really run, in order, on a random twin (``salmonn/twin.py``) and
some clips of noise, and the twin is saved, loaded and compared as the model will be. The twin's widths are so
small, and its clips so many, that this is data enough: what the run would accept is never refused here.
Whether the run's own clips are data enough for the real widths, ``predict`` counts. The errors are those of
the run, with the same positions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import BaselineError
from audiolm_compress.passes import Gptq, LowRank
from audiolm_compress.passes.base import Context, Pass, PassReport, Progress, Silent
from audiolm_compress.planner import calibration_texts, predict_passes, training_texts
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.planning.work import Clip
from audiolm_compress.quantization.blocks import find_blocks, target_linears
from audiolm_compress.recipe import Recipe
from audiolm_compress.recipe_steps import at_pass
from audiolm_compress.reload_check import Behaviour
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model
from audiolm_compress.salmonn.twin import narrow_twin

_CLIPS = 6  # at least
_OF_A_TASK = 3  # at least: searches split the clips of each in three
_SECONDS = (2.0, 3.0, 2.5)  # of the clips, in turn: batches of mixed lengths are among what can go wrong
_STRETCHES = range(1, 11)  # of these lengths; Whisper hears no more than 30 s
_WHISPER_SECONDS = 30.0
_NOISE = 0.05
_COMPARED = 2  # clips whose logits are compared before and after saving


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
    recipe: Recipe,
    calibration: Sequence[Example] = (),
    progress: Progress | None = None,
    training: Sequence[Example] = (),
) -> Rehearsal:
    """Find out in seconds whether the passes of ``recipe`` can run in their order on its baseline.

    Args:
        recipe: its baseline may be without weights.
        calibration: the run's clips: counted for the real sizes, their tasks and texts taken for the twin;
            without them, the twin gets every prompt's task.
        progress: shows one line, and every note.
        training: the run's clips for learning alone, taken alike; without them, passes learn from those that
            stand for ``calibration``.

    Raises:
        PassError: a pass is impossible; says its position and what was done before it, as the run would.
        AudioLMError: the baseline's configs cannot be read, or the twin is another one once it is reloaded.
    """
    progress = progress or Silent()
    progress.start("rehearsing the passes on a narrow twin", len(recipe.passes) + 1)
    outline = outline_model(recipe.baseline)
    twin: Salmonn | None = None
    why = "no tokenizer beside the configs"
    if outline.tokenizer_known:
        try:
            twin = narrow_twin(outline.model, recipe.seed)
        except BaselineError as error:
            why = str(error)
    texts = calibration or calibration_texts(recipe)
    learnt = training or training_texts(recipe)
    predict_passes(recipe, Sketch(outline.model, texts, outline.tokenizer_known, training=learnt))
    progress.advance()
    if twin is None:
        note = f"{why}: checked against the sizes, but not tried"
        done = Rehearsal((None,) * len(recipe.passes), None, (note,))
    else:
        stretch, rounds = enough_clips(needed_positions(recipe, twin), (twin, outline.model))
        clips = rehearsal_clips(twin, calibration, recipe.seed, stretch, rounds)
        lessons = rehearsal_clips(twin, training, recipe.seed) if training else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is worth a warning, the run will say of the real model
            done = _tried(recipe, twin, clips, lessons, progress)
    for note in done.notes:
        progress.note(note)
    return done


def _tried(
    recipe: Recipe,
    twin: Salmonn,
    clips: Sequence[Example],
    training: Sequence[Example],
    progress: Progress,
) -> Rehearsal:
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
            rng = torch.Generator().manual_seed(recipe.seed)
            context = Context(clips, rng, reference, training=training)
            with torch.random.fork_rng(), at_pass(recipe, position):
                torch.manual_seed(recipe.seed)
                reports.append(entry.rehearsed(twin).apply(twin, context))
        progress.advance()
    saved = Behaviour.of(twin, clips[:_COMPARED], generate=False)
    with TemporaryDirectory() as folder:
        store.write(twin, Path(folder))
        loaded = store.load(Path(folder))
    saved.check(Behaviour.of(loaded, clips[:_COMPARED], generate=False))
    return Rehearsal(tuple(reports), loaded, tuple(notes))


def needed_positions(recipe: Recipe, twin: Salmonn) -> dict[str, int]:
    """Part -> calibration positions that passes which refuse too few of them need there, twice over."""
    needed: dict[str, int] = {}
    for entry in recipe.passes:
        if isinstance(entry, Gptq | LowRank):
            for part in [part for part in entry.parts if part in twin.parts()]:
                widths = _least_positions(entry, twin.get_submodule(part))
                needed[part] = max(needed.get(part, 0), 2 * max(widths, default=0))
    return needed


def _least_positions(entry: Gptq | LowRank, part: nn.Module) -> list[int]:
    """What ``entry`` needs for each layer of a part: its inputs, or the less of its inputs and outputs."""
    if isinstance(entry, Gptq):
        blocks = find_blocks(part).values()
        return [linear.in_features for block in blocks for linear in target_linears(block).values()]
    return [min(linear.in_features, linear.out_features) for linear in target_linears(part).values()]


def enough_clips(needed: Mapping[str, int], models: Sequence[Salmonn]) -> tuple[int, int]:
    """How much longer, and how often, the clips must be taken to give all positions: a stretch and rounds.

    Args:
        needed: part -> positions.
        models: before and after the passes, as un-padding and wider windows leave fewer positions.

    Returns:
        Of what suffices the cheapest: once padded to 30 s and once at its own length, every clip is computed.
    """

    def rounds(stretch: int) -> int:
        most = 1
        for model in models:
            found = [_positions(model, stretch * seconds) for seconds in _SECONDS]
            for part in needed.keys() & model.parts().keys():
                have = _CLIPS // len(_SECONDS) * sum(positions[part] for positions in found)
                most = max(most, -(-needed[part] // max(1, have)))
        return most

    def cost(option: tuple[int, int]) -> float:
        stretch, count = option
        return count * (_WHISPER_SECONDS + stretch * sum(_SECONDS) / len(_SECONDS))

    return min(((stretch, rounds(stretch)) for stretch in _STRETCHES), key=cost)


def _positions(model: Salmonn, seconds: float) -> dict[str, int]:
    """What the layers of each part get of a clip; of the LLM's text no more than the prompt."""
    clip = Clip.of(model, seconds)
    return {
        "speech_encoder": clip.speech_frames,
        "audio_encoder": clip.sound_tokens,
        "connector": clip.audio_tokens,
        "llm": clip.prompt,
    }


def rehearsal_clips(
    model: Salmonn, calibration: Sequence[Example], seed: int, stretch: int = 1, rounds: int = 1
) -> list[Example]:
    """A few clips of noise with the tasks and texts of the run's clips, tasks in turn.

    Args:
        model: whose prompts are taken where there is no ``calibration``.
        calibration: the run's clips.
        seed: of the noise.
        stretch: how many times as long as 2 to 3 s they are.
        rounds: how many times 6 there are, or 3 of each task if these are more.
    """
    asked = [clip.task for clip in calibration] or [*model.prompts.test, *model.prompts.train]
    count = max(_CLIPS, _OF_A_TASK * len(set(asked))) * rounds
    if calibration:
        chosen = [calibration[index] for index in in_turn(calibration, count)]
    else:
        tasks = [*model.prompts.test, *model.prompts.train] or ["asr"]
        text = "a man says that the quick brown fox jumps over the lazy dog"
        chosen = [
            Example(str(index), torch.empty(0), tasks[index % len(tasks)], text, (text,))
            for index in range(count)
        ]
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for index in range(count):
        clip = chosen[index % len(chosen)]
        samples = round(stretch * _SECONDS[index % len(_SECONDS)] * SAMPLE_RATE)
        noise = _NOISE * torch.randn(samples, generator=generator)
        clips.append(
            Example(f"rehearsal {index}", noise, clip.task, clip.text, clip.references, clip.question)
        )
    return clips
