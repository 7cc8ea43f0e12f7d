"""Time to the first token and per further token, in two protocols; the first also in transformers' runtime.

All are batch 1 and greedy. TTFT runs from the waveform to the first token on the host: features, both
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
from transformers.generation.streamers import BaseStreamer

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.measurement.measurements import Latency, Spread
from audiolm_compress.measurement.settings import BenchmarkSettings, NoiseLatency
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.generation import end_ids, transformers_ids
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
    ends = frozenset(end_ids(model)[0])

    def answer(example: Example) -> Answer:
        longest = _greedy(model, example, settings).max_new_tokens
        return timed_answer(model, lambda: model.prepare_examples([example]), longest, ends)

    return _over_clips(answer, examples, settings, advance)


def transformers_latency(
    model: Salmonn, examples: Sequence[Example], settings: BenchmarkSettings, advance: Advance
) -> Latency:
    """``clips_latency`` with the LLM in transformers' own ``generate``; encoders and prompts are the same."""

    def answer(example: Example) -> Answer:
        return generated_answer(model, example, _greedy(model, example, settings))

    return _over_clips(answer, examples, settings, advance, " in transformers' generate")


def _over_clips(
    answer: Callable[[Example], Answer],
    examples: Sequence[Example],
    settings: BenchmarkSettings,
    advance: Advance,
    how: str = "",
) -> Latency:
    chosen = [examples[index] for index in in_turn(examples, settings.latency.clips)]
    answers = []
    with quiet_clock():
        for index in range(-settings.latency.warmup, len(chosen)):
            answers.append(answer(chosen[index % len(chosen)]))
            advance()
    warmup = settings.latency.warmup
    protocol = f"{len(chosen)} test clips, full greedy answers{how}, after {warmup} for warming up"
    return _latency(protocol, answers[warmup:])


def noise_latency(model: Salmonn, settings: BenchmarkSettings, seed: int, advance: Advance) -> Latency:
    """The upstream protocol, see ``noise_answers``."""
    protocol = settings.noise_protocol
    return _latency(noise_protocol(protocol), noise_answers(model, protocol, seed, advance))


def noise_protocol(protocol: NoiseLatency) -> str:
    """The upstream protocol in words."""
    return (
        f"{_NOISE_SECONDS} s of noise, one decode step, {protocol.iterations} iterations "
        f"after {protocol.warmup} for warming up"
    )


def noise_answers(model: Salmonn, protocol: NoiseLatency, seed: int, advance: Advance) -> list[Answer]:
    """The upstream protocol: 10 s of standard-normal noise, recognition prompt, one step after the prefill.

    Unlike upstream's own script the clock waits for the device and the step reads the whole prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_NOISE_SECONDS * SAMPLE_RATE, generator=generator)
    answers = []
    with quiet_clock():
        for index in range(protocol.warmup + protocol.iterations):
            answer = timed_answer(model, lambda: model.prepare([noise], "asr"), 2, frozenset())
            if index >= protocol.warmup:
                answers.append(answer)
            advance()
    return answers


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


class _Clock(BaseStreamer):
    """Looks at the clock whenever ``generate`` hands on a token, and once when it hands on the prompt."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Note the time; the token is on the host already, so the device has computed it."""
        self.times.append(_now(self._device))

    def end(self) -> None:
        """Nothing is left to do."""


@torch.inference_mode()
def generated_answer(model: Salmonn, example: Example, settings: DecodeSettings) -> Answer:
    """One timed answer by transformers' ``generate``; see ``timed_answer``."""
    gc.collect(0)
    clock = _Clock(model.device)
    begin = _now(model.device)
    ids = transformers_ids(model, model.prepare_examples([example]), settings, clock)[0].tolist()
    first, last = clock.times[1], clock.times[-1]
    return Answer(first - begin, last - first, tuple(ids))


def _greedy(model: Salmonn, example: Example, settings: BenchmarkSettings) -> DecodeSettings:
    """What both runtimes are timed with: of the task's settings only the longest answer counts."""
    own = model.decode_settings(example.task, **settings.decode_changes(example.task))
    return DecodeSettings(num_beams=1, min_length=0, max_new_tokens=own.max_new_tokens)


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
    return clip_steps(settings, clips) + noise


def clip_steps(settings: BenchmarkSettings, clips: int) -> int:
    """How often a protocol on real clips calls ``advance``."""
    return settings.latency.warmup + min(clips, settings.latency.clips)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _latency(protocol: str, answers: Sequence[Answer]) -> Latency:
    ttft = Spread.of([answer.first for answer in answers])
    assert ttft is not None, "both protocols have at least one run"
    per_token = [seconds for answer in answers if (seconds := answer.per_token) is not None]
    return Latency(protocol, ttft, Spread.of(per_token), fmean(len(answer.ids) for answer in answers))
