"""The loss on calibration clips, before and after a change: what a pass costs until something repairs it.

loss = - sum over text tokens of log p(token | prompt, audio, tokens before it) / number of text tokens
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.wrapping import IGNORED, Inputs
from audiolm_compress.training.shards import shard, total


def calibration_loss(model: Salmonn, examples: Sequence[Example], batch_size: int = 8) -> float:
    """Mean cross-entropy, in nats, of the examples' reference texts and their end symbols.

    Every text token weighs the same, however the examples are batched. Dropout is off; the model's mode is
    afterwards as before. Several processes share the batches, and all of them get the whole loss.

    Args:
        model: any model.
        examples: clips with instruction and reference text; tasks may be mixed.
        batch_size: examples that are computed together.

    Raises:
        PassError: there are no examples.
    """
    if not examples:
        raise PassError("the calibration loss needs clips, but there are none; give calibration data")
    starts = shard(range(0, len(examples), batch_size))
    own = _sums(model, (model.prepare_training(examples[i : i + batch_size]) for i in starts))
    loss, tokens = total(torch.tensor(own, dtype=torch.float64)).tolist()
    return float(loss / tokens)


def require_finite(loss: float, asker: str) -> None:
    """Refuse to choose by the data of a model that is broken already.

    Args:
        loss: the calibration loss before anything is changed.
        asker: the pass that goes by it.

    Raises:
        PassError: it is infinite or NaN.
    """
    if not math.isfinite(loss):
        raise PassError(
            f"{asker}: the calibration loss is {loss} before anything is changed, so the clips cannot tell "
            "what matters; remove the pass that broke the model, or check the baseline's weights"
        )


def clip_losses(model: Salmonn, examples: Sequence[Example]) -> list[Callable[[], Tensor]]:
    """What each clip adds to ``calibration_loss``: functions that compute it, to be differentiated.

    Clips are computed alone: the graph that leads back through an encoder takes gigabytes for each of them.
    """
    tokens = [len(model.answer_ids(example.text)) for example in examples]

    def share(example: Example, count: int) -> Tensor:
        return model.loss([example]) * (count / sum(tokens))

    return [partial(share, example, count) for example, count in zip(examples, tokens, strict=True)]


def prepared_loss(model: Salmonn, batches: Iterable[Inputs]) -> float:
    """``calibration_loss`` of batches from ``model.prepare_training``, for changes that they do not notice.

    A generator's batches are prepared with dropout off too, and never more than one of them is in memory.
    Every process computes all of them.
    """
    loss, tokens = _sums(model, batches)
    return loss / tokens


@torch.no_grad()
def _sums(model: Salmonn, batches: Iterable[Inputs]) -> tuple[float, int]:
    """The loss summed over all text tokens, and how many these are."""
    training = model.training
    model.eval()
    summed, tokens = 0.0, 0
    try:
        for inputs in batches:
            assert inputs.labels is not None
            count = int((inputs.labels[:, 1:] != IGNORED).sum())
            summed += count * model.text_loss(inputs).item()
            tokens += count
    finally:
        model.train(training)
    return summed, tokens
