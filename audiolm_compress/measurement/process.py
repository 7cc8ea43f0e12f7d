"""Measures models in processes of their own, and scores their answers.

Of several processes of ``accelerate launch``, each starts one a model. Those of the main process measure as
if it were alone: the others wait until it has timed the models, all answer their share of the clips, and it
waits in turn until they have ended before it times on. Times and answers are those of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from audiolm_compress.errors import DataError
from audiolm_compress.measurement.headline import in_a_line
from audiolm_compress.measurement.measurements import ClipResult, Measurements
from audiolm_compress.measurement.request import Request
from audiolm_compress.measurement.scoring import score
from audiolm_compress.measurement.settings import BenchmarkSettings, ClipSource
from audiolm_compress.measurement.turns import Side, measure_in_turns
from audiolm_compress.passes.base import Progress, Silent
from audiolm_compress.salmonn.asking import Asking
from audiolm_compress.training import signs
from audiolm_compress.training.shards import on_main, processes, together

_GO, _STOP = "go", "stop"
_numbers = count()


@dataclass(frozen=True)
class Model:
    """One of several models to measure.

    Attributes:
        name: what progress and messages call it, such as ``baseline``.
        source: anything that ``load_model`` takes.
        asking: prompts and decode settings in the place of the model's own.
        allow_missing: see ``load_model``.
    """

    name: str
    source: str | Path
    asking: Asking | None = None
    allow_missing: bool = False


def measure(
    source: str | Path,
    clips: ClipSource,
    settings: BenchmarkSettings,
    *,
    device: str = "cpu",
    seed: int = 0,
    name: str = "model",
    allow_missing: bool = False,
    asking: Asking | None = None,
    progress: Progress | None = None,
) -> Measurements:
    """Measure one model in a fresh process and score its answers.

    Several processes of a launch must all call it; they share the clips, and all get the measurements.

    Args:
        source: anything that ``load_model`` takes.
        clips: test clips.
        settings: how to measure.
        device: where the model runs.
        seed: of the noise, of sampling and of the bootstrap intervals.
        name: what progress and messages call the model, such as ``baseline``.
        allow_missing: see ``load_model``.
        asking: prompts and decode settings in the place of the model's own.
        progress: where to show the state.

    Raises:
        AudioLMError: what went wrong in the process, under its own type (``DataError`` for bad clips,
            ``BaselineError`` for an unusable model), or that the process was killed.
    """
    model = Model(name, source, asking, allow_missing)
    return measure_together([model], clips, settings, device=device, seed=seed, progress=progress)[0]


def measure_together(
    models: Sequence[Model],
    clips: ClipSource,
    settings: BenchmarkSettings,
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Measurements]:
    """Measure models as ``measure`` does; timed in turns, if ``settings.latency.interleave`` says so.

    Arguments and errors are those of ``measure``.
    """
    state = processes()
    main = state.process_index == 0
    sides = [
        Side(
            model.name,
            Request(
                source=str(model.source),
                clips=clips,
                settings=settings,
                device=device,
                seed=seed,
                allow_missing=model.allow_missing,
                asking=model.asking,
                share=(state.process_index, state.num_processes),
                in_turns=main and settings.latency.interleave and len(models) > 1,
            ),
        )
        for model in models
    ]
    progress = progress or Silent()
    if state.num_processes == 1:
        found = [measure_in_turns(sides, progress, _go_on)]
    else:
        state.wait_for_everyone()  # what the main one times must not be disturbed by work before it
        number = next(_numbers)  # the same in all processes, as all measure the same models
        work = _on_main if main else _after_main
        found = together(lambda: work(sides, progress, number))
    scored = on_main(lambda: [_scored(shares, settings, seed) for shares in zip(*found, strict=True)])
    for model, measured in zip(models, scored, strict=True):
        progress.note(f"{model.name}: {in_a_line(measured)}")
    return scored


def _scored(found: Sequence[dict[str, Any]], settings: BenchmarkSettings, seed: int) -> Measurements:
    """What all processes found of a model, the main one's first, as one."""
    measured = Measurements.from_dict(found[0]["measurements"])
    answers = {
        place: ClipResult.from_dict(clip)
        for content in found
        for place, clip in zip(content["places"], content["clips"], strict=True)
    }
    if sorted(answers) != list(range(measured.counts["clips"])):
        raise DataError(
            f"{len(found)} processes share {measured.counts['clips']} clips, but answered {len(answers)}; "
            "give all of them the same files"
        )
    own = len(found[0]["places"])
    notes = measured.notes
    if len(found) > 1:
        shared = f"{len(found)} processes shared the answers"
        notes += (f"{shared}; peak memory is of the first, which gave {own} of {len(answers)}",)
    scores = score([answers[place] for place in sorted(answers)], seed, settings)
    return replace(
        measured,
        clips=scores.clips,
        scores=scores.scores,
        unscored=scores.unscored,
        edits=scores.edits,
        groups=scores.groups,
        counts={**measured.counts, "not_scored": scores.not_scored},
        notes=(*notes, *scores.notes),
    )


def _on_main(sides: Sequence[Side], progress: Progress, number: int) -> list[dict[str, Any]]:
    """Measure in the main process, and let the others answer when nothing is being timed."""

    def paused(moment: str, places: range) -> None:
        for place in places:
            if moment == "timed":
                signs.leave(f"timed {number} {place}", _GO)
            elif moment == "answered":
                for index in range(1, sides[place].request.share[1]):
                    signs.awaited(f"answered {number} {place} {index}")

    try:
        return measure_in_turns(sides, progress, paused)
    except BaseException:
        for place in range(len(sides)):
            signs.leave(f"timed {number} {place}", _STOP)
        raise


def _after_main(sides: Sequence[Side], progress: Progress, number: int) -> list[dict[str, Any]]:
    """Answer this process's share of each model once the main one has timed it."""
    found: list[dict[str, Any]] = []
    for place, side in enumerate(sides):
        if signs.awaited(f"timed {number} {place}") == _STOP:
            return []
        try:
            found += measure_in_turns([side], progress, _go_on)
        finally:
            signs.leave(f"answered {number} {place} {side.request.share[0]}")
    return found


def _go_on(moment: str, places: range) -> None:
    """Nobody else needs to come as far."""
