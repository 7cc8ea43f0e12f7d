"""Running one part of the model on calibration clips, behind the parts before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.quantization.blocks import Replay
from audiolm_compress.salmonn.model import Salmonn


def part_calibration(
    model: Salmonn, part: str, examples: Sequence[Example], batch_size: int
) -> tuple[Replay, list[Tensor | None]]:
    """How to run ``part`` on calibration batch i, and what counts in each batch (None: everything).

    Clips that the model pads to different lengths stand in different batches.
    """
    if part == "audio_encoder":
        batch_size = 1  # clips differ in length and nothing says inside which positions are padding
    batches = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
    if part == "llm":
        inputs = [model.prepare_training(batch) for batch in batches]
        return (lambda index: model.score(inputs[index])), [batch.mask for batch in inputs]
    clips = [[example.waveform for example in batch] for batch in batches]
    waveforms = [[batch[index] for index in bucket] for batch in clips for bucket in model.buckets(batch)]
    if part == "connector":
        states = [(model.encode_speech(batch), model.encode_sound(batch)) for batch in waveforms]
        return (lambda index: model.connect(*states[index])), [None] * len(states)
    encode = model.encode_speech if part == "speech_encoder" else model.encode_sound
    return (lambda index: encode(waveforms[index])), [None] * len(waveforms)


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
