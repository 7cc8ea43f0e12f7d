"""Running one part of the model on calibration clips, behind the parts before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.quantization.blocks import Replay
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.training.shards import processes, shard, total


def part_calibration(
    model: Salmonn, part: str, examples: Sequence[Example], batch_size: int
) -> tuple[Replay, list[Tensor | None]]:
    """How to run ``part`` on calibration batch i, and what counts in each batch (None: everything).

    Clips that the model pads to different lengths stand in different batches.
    """
    batches = _batches(part, examples, batch_size)
    if part == "llm":
        inputs = [model.prepare_training(batch) for batch in batches]
        return (lambda index: model.score(inputs[index])), [batch.mask for batch in inputs]
    waveforms = _heard_together(model, batches)
    if part == "connector":
        states = [(model.encode_speech(batch), model.encode_sound(batch)) for batch in waveforms]
        return (lambda index: model.connect(*states[index])), [None] * len(states)
    encode = model.encode_speech if part == "speech_encoder" else model.encode_sound
    return (lambda index: encode(waveforms[index])), [None] * len(waveforms)


def shared_clips(
    examples: Sequence[Example], batch_size: int
) -> tuple[Sequence[Example], Callable[[Tensor], Tensor] | None]:
    """This process's share of the clips, in the batches that one process alone would make.

    Returns:
        The clips, and what sums statistics of them over all processes; None if there is nothing to sum,
        because there is one process, or fewer batches than processes and each has all clips.
    """
    starts = range(0, len(examples), batch_size)
    if not 1 < processes().num_processes <= len(starts):
        return examples, None
    return [example for start in shard(starts) for example in examples[start : start + batch_size]], total


def calibration_positions(model: Salmonn, part: str, examples: Sequence[Example], batch_size: int) -> int:
    """How many positions count in all batches of ``part_calibration``; nothing is computed.

    Args:
        model: may be an outline.
        part: the LLM, or one of the encoders, whose blocks read a position a state.
        examples: with their waveforms.
        batch_size: as of ``part_calibration``.
    """
    batches = _batches(part, examples, batch_size)
    if part == "llm":
        return sum(sum(model.training_lengths(batch)) for batch in batches)
    states = model.frames if part == "speech_encoder" else model.sound_tokens
    waveforms = _heard_together(model, batches)
    return sum(len(batch) * states([len(waveform) for waveform in batch]) for batch in waveforms)


def _batches(part: str, examples: Sequence[Example], batch_size: int) -> list[Sequence[Example]]:
    if part == "audio_encoder":
        batch_size = 1  # clips differ in length and nothing says inside which positions are padding
    return [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]


def _heard_together(model: Salmonn, batches: Sequence[Sequence[Example]]) -> list[list[Tensor]]:
    """The waveforms of each batch, in as many as the model pads them to different lengths."""
    clips = [[example.waveform for example in batch] for batch in batches]
    return [[batch[index] for index in bucket] for batch in clips for bucket in model.buckets(batch)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
