"""The loss on calibration clips, before and after a change: what a pass costs until something repairs it.

loss = - sum over text tokens of log p(token | prompt, audio, tokens before it) / number of text tokens
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.salmonn.model import IGNORED, Salmonn


@torch.no_grad()
def calibration_loss(model: Salmonn, examples: Sequence[Example], batch_size: int = 8) -> float:
    """Mean cross-entropy, in nats, of the examples' reference texts and their end symbols.

    Every text token weighs the same, however the examples are batched. Dropout is off; the model's mode is
    afterwards as before.

    Args:
        model: any model.
        examples: clips with instruction and reference text; tasks may be mixed.
        batch_size: examples that are computed together.

    Raises:
        PassError: there are no examples.
    """
    if not examples:
        raise PassError("the calibration loss needs clips, but there are none; give calibration data")
    training = model.training
    model.eval()
    total, tokens = 0.0, 0
    try:
        for start in range(0, len(examples), batch_size):
            inputs = model.prepare_training(examples[start : start + batch_size])
            assert inputs.labels is not None
            count = int((inputs.labels[:, 1:] != IGNORED).sum())
            total += count * model.text_loss(inputs).item()
            tokens += count
    finally:
        model.train(training)
    return total / tokens
