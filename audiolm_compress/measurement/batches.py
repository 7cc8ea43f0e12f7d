"""Answers to several clips at once: what a server gains by them, and how long its users wait."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch

from audiolm_compress.data.example import Example
from audiolm_compress.measurement.latency import Answer, greedy_settings, timed_clips
from audiolm_compress.measurement.measurements import BatchLatency, Spread
from audiolm_compress.measurement.rounds import Rounds
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.salmonn.generation import end_ids
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.stages import now


def batch_latency(
    model: Salmonn, examples: Sequence[Example], settings: BenchmarkSettings, size: int, rounds: Rounds
) -> BatchLatency:
    """The clips of ``clips_latency``, ``size`` at a time; the first ones fill up the last batch."""
    chosen = timed_clips(examples, settings)
    count = -(-len(chosen) // size)
    ends = frozenset(end_ids(model)[0])

    def answer(index: int) -> Answer:
        batch = [chosen[(index * size + row) % len(chosen)] for row in range(size)]
        return timed_batch(model, batch, settings, ends)

    timed = rounds.time(f"timing batches of {size}", count, settings.latency.warmup, answer)
    ttft = Spread.of([answer.first for answer in timed.runs])
    assert ttft is not None, "there is at least one batch"
    return BatchLatency(
        size=size,
        ttft=ttft,
        step=Spread.of([seconds for answer in timed.runs if (seconds := answer.per_token) is not None]),
        clips_per_second=count * size / sum(answer.first + answer.further for answer in timed.runs),
        energy_joules=None if timed.joules is None else timed.joules / size,
    )


@torch.inference_mode()
def timed_batch(
    model: Salmonn, batch: Sequence[Example], settings: BenchmarkSettings, ends: frozenset[int]
) -> Answer:
    """Answer a batch greedily and look at the clock; the ids are those of its longest answer.

    All rows are read on until the last one has ended, as nothing takes the place of those that are done.
    """
    longest = [greedy_settings(model, example, settings).max_new_tokens for example in batch]
    gc.collect(0)
    begin = now(model.device)
    logits, reading = model.prefill(model.prepare_examples(batch), max(longest))
    token = logits.argmax(-1)
    rows = [[identity] for identity in token.tolist()]
    first = now(model.device)
    while any(len(row) < most and row[-1] not in ends for row, most in zip(rows, longest, strict=True)):
        token = reading.step(token).argmax(-1)
        for row, most, identity in zip(rows, longest, token.tolist(), strict=True):
            if len(row) < most and row[-1] not in ends:
                row.append(identity)
    last = now(model.device)
    return Answer(first - begin, last - first, max(map(tuple, rows), key=len))
