"""What a model says about the test clips; ``scoring`` tells how good that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.data.loading import batches
from audiolm_compress.measurement.measurements import ClipResult
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.salmonn.model import Salmonn


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
                source=example.source,
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
