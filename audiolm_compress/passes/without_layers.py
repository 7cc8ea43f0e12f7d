"""What the calibration loss would be without some layers, measured before any layer is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.passes.calibration_loss import calibration_loss, prepared_loss
from audiolm_compress.quantization.blocks import hidden_states
from audiolm_compress.salmonn.model import Salmonn

LossWithout = Callable[[Sequence[int]], float]


@contextmanager
def loss_without(
    model: Salmonn, part: str, examples: Sequence[Example], batch_size: int
) -> Iterator[LossWithout]:
    """Inside, the function yielded gives the calibration loss with those layers of ``part`` skipped.

    What the layers do not touch is computed once: the LLM's inputs where ``part`` is the LLM, otherwise the
    states of the other encoder. It stays in memory until the end of the block.
    """
    layers = model.layers(part)
    if part == "llm":
        starts = range(0, len(examples), batch_size)
        inputs = [model.prepare_training(examples[start : start + batch_size]) for start in starts]

        def prepared(indices: Sequence[int]) -> float:
            with _skipped([layers[index] for index in indices]):
                return prepared_loss(model, inputs)

        yield prepared
        return
    with _remembered(model, "encode_sound" if part == "speech_encoder" else "encode_speech") as again:

        def encoded(indices: Sequence[int]) -> float:
            again()
            with _skipped([layers[index] for index in indices]):
                return calibration_loss(model, examples, batch_size)

        yield encoded


@contextmanager
def _skipped(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, ``layers`` hand their hidden states on as they get them."""
    own = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        vars(layer)["forward"] = lambda *args, **kwargs: hidden_states(args, kwargs)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            vars(layer).pop("forward")
            if forward is not None:
                vars(layer)["forward"] = forward


@contextmanager
def _remembered(model: Salmonn, method: str) -> Iterator[Callable[[], None]]:
    """Inside, a method's answers are computed once, in the order of calls; what is yielded starts over."""
    original, calls = getattr(model, method), 0
    answers: list[Tensor | None] = []

    def answer(*args: Any) -> Tensor | None:
        nonlocal calls
        if calls == len(answers):
            answers.append(original(*args))
        calls += 1
        return answers[calls - 1]

    def start_over() -> None:
        nonlocal calls
        calls = 0

    vars(model)[method] = answer
    try:
        yield start_over
    finally:
        del vars(model)[method]
