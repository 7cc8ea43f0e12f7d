"""What a model says about the test clips, and how good that is.

Answering happens in the measured process, scoring in the one that started it: the scorers' libraries are
heavy and would be counted as the model's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.data.loading import batches
from audiolm_compress.data.tasks import TaskKind
from audiolm_compress.measurement.measurements import ClipResult
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.metrics.bootstrap import interval
from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.spider import spider
from audiolm_compress.metrics.wer import wer
from audiolm_compress.salmonn.model import Salmonn


@dataclass(frozen=True)
class Scores:
    """Scores of a whole test set; fields as in ``Measurements``."""

    clips: tuple[ClipResult, ...]
    wer: float | None
    cider_d: float | None
    spider: float | None
    spider_note: str
    intervals: Mapping[str, tuple[float, float]]
    not_scored: int
    notes: tuple[str, ...]


def own_batches(
    examples: Sequence[Example], size: int, share: tuple[int, int]
) -> list[tuple[int, list[Example]]]:
    """The batches that one of several processes answers, with their numbers among those of all.

    Whole batches are shared, so that each is what it would be for one process: padding to the longest clip
    of a batch can round differently.
    """
    first, step = share
    return list(islice(enumerate(batches(examples, size)), first, None, step))


def answer_clips(
    model: Salmonn,
    examples: Sequence[Example],
    settings: BenchmarkSettings,
    advance: Callable[[int], None],
    *,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
) -> dict[int, ClipResult]:
    """Answer clips with the instruction of their task; batches hold one task.

    Args:
        model: what answers.
        examples: all clips.
        settings: batch size and changes to the decode settings.
        advance: called with the number of clips that were answered.
        seed: with the number of the batch, of sampling where the decode settings sample.
        share: which of how many processes this is.

    Returns:
        Place of the clip among ``examples`` -> its answer, in the order of the places.
    """
    places = {id(example): place for place, example in enumerate(examples)}
    found = {}
    for number, batch in own_batches(examples, settings.batch_size, share):
        for example, text in zip(batch, answer_batch(model, batch, settings, seed + number), strict=True):
            found[places[id(example)]] = ClipResult(
                testset_id=example.id,
                task=example.task,
                text=text,
                references=example.references or (example.text,),
                path=str(example.path or ""),
                seconds=len(example.waveform) / SAMPLE_RATE,
            )
        advance(len(batch))
    return dict(sorted(found.items()))


def answer_batch(
    model: Salmonn, batch: Sequence[Example], settings: BenchmarkSettings, seed: int
) -> list[str]:
    """Answer clips of one task together; ``seed`` is of sampling where the decode settings sample."""
    decode = model.decode_settings(batch[0].task, **settings.decode_changes(batch[0].task))
    torch.manual_seed(seed)
    return model.texts(model.generate_ids(model.prepare_examples(batch), decode), decode)


def used_decode(model: Salmonn, examples: Sequence[Example], settings: BenchmarkSettings) -> dict[str, Any]:
    """The decode settings of every task among the examples, in JSON form."""
    tasks = dict.fromkeys(example.task for example in examples)
    return {task: model.decode_settings(task, **settings.decode_changes(task)).model_dump() for task in tasks}


def score(clips: Sequence[ClipResult], seed: int = 0) -> Scores:
    """Score answers by the kind of their task.

    Recognition: WER against the first reference. Captions: CIDEr-D and SPIDEr against all of theirs.

    Args:
        clips: answered clips; scores that they carry already are computed anew.
        seed: of the bootstrap intervals.

    Raises:
        DataError: a caption clip has no usable reference, or no recognition reference holds a word.
    """
    scored = list(clips)
    notes: list[str] = []
    intervals: dict[str, tuple[float, float]] = {}
    recognised = _of_kind(clips, "asr")
    wer_value = None
    if recognised:
        result = wer([clips[i].text for i in recognised], [clips[i].references[0] for i in recognised])
        wer_value = result.wer
        for index, errors in zip(recognised, result.per_clip, strict=True):
            scored[index] = replace(scored[index], errors=errors.errors, words=errors.words)
        bounds = interval(
            [clip.errors for clip in result.per_clip], [clip.words for clip in result.per_clip], seed=seed
        )
        intervals["wer"] = (bounds.low, bounds.high)
    captions = _of_kind(clips, "aac")
    cider_value = spider_value = None
    spider_note = "no caption clips"
    if len(captions) == 1:
        spider_note = "one caption clip"
        notes.append("CIDEr-D needs at least two caption clips; the test set has one, so it is not scored")
    elif captions:
        texts = [clips[i].text for i in captions]
        references = [clips[i].references for i in captions]
        cider_value, per_clip = cider_d(texts, references)
        with_spice = spider(texts, references)
        spider_value, spider_note = with_spice.spider, with_spice.note
        for place, index in enumerate(captions):
            both = with_spice.per_clip[place] if with_spice.per_clip else None
            scored[index] = replace(scored[index], cider_d=per_clip[place], spider=both)
        bounds = interval(per_clip, seed=seed)
        intervals["cider_d"] = (bounds.low, bounds.high)
    return Scores(
        clips=tuple(scored),
        wer=wer_value,
        cider_d=cider_value,
        spider=spider_value,
        spider_note=spider_note,
        intervals=intervals,
        not_scored=sum(clip.errors is None and clip.cider_d is None for clip in scored),
        notes=tuple(notes),
    )


def _of_kind(clips: Sequence[ClipResult], kind: TaskKind) -> list[int]:
    return [index for index, clip in enumerate(clips) if clip.kind == kind]
