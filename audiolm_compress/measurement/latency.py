"""Time to the first token and per further token, in two protocols.

Both are batch 1 and greedy. TTFT runs from the waveform to the first token on the host: features, both
encoders, connector, prompt and prefill. TPOT is the mean time of the tokens after it, read one by one with
the true cache. The device is synchronised before every reading of the clock.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.measurement.measurements import Latency, Spread
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.salmonn.model import Inputs, Salmonn

_NOISE_SECONDS = 10
Advance = Callable[[], None]


@dataclass(frozen=True)
class Answer:
    """One timed answer: seconds to the first token, seconds of all further ones, and the ids."""

    first: float
    further: float
    ids: tuple[int, ...]

    @property
    def per_token(self) -> float | None:
        """Mean seconds of a further token."""
        return self.further / (len(self.ids) - 1) if len(self.ids) > 1 else None


def clips_latency(
    model: Salmonn, examples: Sequence[Example], settings: BenchmarkSettings, advance: Advance
) -> Latency:
    """Real clips, full answers: until the LLM ends by itself or ``max_new_tokens`` of the task are there."""
    chosen = [examples[index] for index in in_turn(examples, settings.latency.clips)]
    ends = _end_ids(model)

    def answer(example: Example) -> Answer:
        changes = settings.decode_changes(example.task)
        longest = model.decode_settings(example.task, **changes).max_new_tokens
        timed = timed_answer(model, lambda: model.prepare_examples([example]), longest, ends)
        advance()
        return timed

    with quiet_clock():
        for index in range(settings.latency.warmup):
            answer(chosen[index % len(chosen)])
        answers = [answer(example) for example in chosen]
    protocol = (
        f"{len(chosen)} test clips, full greedy answers, after {settings.latency.warmup} for warming up"
    )
    return _latency(protocol, answers)


def noise_latency(model: Salmonn, settings: BenchmarkSettings, seed: int, advance: Advance) -> Latency:
    """The upstream protocol: 10 s of standard-normal noise, recognition prompt, one step after the prefill.

    Unlike upstream's own script the clock waits for the device and the step reads the whole prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_NOISE_SECONDS * SAMPLE_RATE, generator=generator)
    protocol = settings.noise_protocol
    answers = []
    with quiet_clock():
        for index in range(protocol.warmup + protocol.iterations):
            answer = timed_answer(model, lambda: model.prepare([noise], "asr"), 2, frozenset())
            if index >= protocol.warmup:
                answers.append(answer)
            advance()
    return _latency(
        f"{_NOISE_SECONDS} s of noise, one decode step, {protocol.iterations} iterations "
        f"after {protocol.warmup} for warming up",
        answers,
    )


@torch.inference_mode()
def timed_answer(model: Salmonn, prepare: Callable[[], Inputs], longest: int, ends: frozenset[int]) -> Answer:
    """Answer greedily and look at the clock.

    Args:
        model: the model.
        prepare: makes the prompt of one clip from its waveform.
        longest: most tokens, at least 1.
        ends: ids that end the answer; they count as its last token, as they take as long as any other.
    """
    gc.collect(0)  # what the answer before left behind, as nobody else collects it now
    begin = _now(model.device)
    logits, reading = model.prefill(prepare(), longest)
    token = logits.argmax(-1)
    ids = [int(token)]
    first = _now(model.device)
    while len(ids) < longest and ids[-1] not in ends:
        token = reading.step(token).argmax(-1)
        ids.append(int(token))
    last = _now(model.device)
    return Answer(first - begin, last - first, tuple(ids))


@contextmanager
def quiet_clock() -> Iterator[None]:
    """No garbage collection inside."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def steps(settings: BenchmarkSettings, clips: int) -> int:
    """How often both protocols together call ``advance``."""
    noise = settings.noise_protocol.warmup + settings.noise_protocol.iterations
    return settings.latency.warmup + min(clips, settings.latency.clips) + noise


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _latency(protocol: str, answers: Sequence[Answer]) -> Latency:
    ttft = Spread.of([answer.first for answer in answers])
    assert ttft is not None, "both protocols have at least one run"
    per_token = [seconds for answer in answers if (seconds := answer.per_token) is not None]
    return Latency(protocol, ttft, Spread.of(per_token), fmean(len(answer.ids) for answer in answers))


def _end_ids(model: Salmonn) -> frozenset[int]:
    ends = model.causal_lm.generation_config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset(ends if isinstance(ends, list) else [ends])
