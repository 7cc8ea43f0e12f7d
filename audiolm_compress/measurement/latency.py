"""Time to the first token and per further token, in two protocols; the first also in transformers' runtime.

All are batch 1 and greedy. TTFT runs from the waveform to the first token on the host: features, both
encoders, connector, prompt and prefill, each of which is timed as well (``salmonn.stages``). TPOT is the mean
time of the tokens after it, read one by one with the true cache. The device is synchronised before every
reading of the clock.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from transformers.generation.streamers import BaseStreamer

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.measurement.measurements import Latency, Spread
from audiolm_compress.measurement.rounds import Rounds, Timed
from audiolm_compress.measurement.settings import BenchmarkSettings, NoiseLatency
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.generation import end_ids, transformers_ids
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.stages import STAGES, listening, now, stage
from audiolm_compress.salmonn.wrapping import Inputs

_NOISE_SECONDS = 10
OTHER = "other"


@dataclass(frozen=True)
class Answer:
    """One timed answer.

    Attributes:
        first: seconds to the first token.
        further: seconds of all further ones.
        ids: of the answer.
        stages: seconds of each stage of ``first``, if they were listened to.
    """

    first: float
    further: float
    ids: tuple[int, ...]
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, float]:
        """The stages, and what ``first`` has beside them as ``other``; empty without stages."""
        rest = self.first - sum(self.stages.values())
        return {**self.stages, OTHER: rest} if self.stages else {}

    @property
    def per_token(self) -> float | None:
        """Mean seconds of a further token."""
        return self.further / (len(self.ids) - 1) if len(self.ids) > 1 else None


def clips_latency(
    model: Salmonn, examples: Sequence[Example], settings: BenchmarkSettings, rounds: Rounds
) -> Latency:
    """Real clips, full answers: until the LLM ends by itself or ``max_new_tokens`` of the task are there."""
    ends = frozenset(end_ids(model)[0])

    def answer(example: Example) -> Answer:
        longest = greedy_settings(model, example, settings).max_new_tokens
        return timed_answer(model, lambda: model.prepare_examples([example]), longest, ends)

    return _over_clips(answer, examples, settings, rounds)


def transformers_latency(
    model: Salmonn, examples: Sequence[Example], settings: BenchmarkSettings, rounds: Rounds
) -> Latency:
    """``clips_latency`` with the LLM in transformers' own ``generate``; encoders and prompts are the same."""

    def answer(example: Example) -> Answer:
        return generated_answer(model, example, greedy_settings(model, example, settings))

    return _over_clips(answer, examples, settings, rounds, " in transformers' generate")


def timed_clips(examples: Sequence[Example], settings: BenchmarkSettings) -> list[Example]:
    """The clips that are timed, tasks in turn."""
    return [examples[index] for index in in_turn(examples, settings.latency.clips)]


def _over_clips(
    answer: Callable[[Example], Answer],
    examples: Sequence[Example],
    settings: BenchmarkSettings,
    rounds: Rounds,
    how: str = "",
) -> Latency:
    chosen, warmup = timed_clips(examples, settings), settings.latency.warmup
    timed = rounds.time(f"timing answers{how}", len(chosen), warmup, lambda index: answer(chosen[index]))
    protocol = f"{len(chosen)} test clips, full greedy answers{how}, after {warmup} for warming up"
    factors = [
        SAMPLE_RATE * (run.first + run.further) / len(example.waveform)
        for run, example in zip(timed.runs, chosen, strict=True)
    ]
    return _latency(protocol, timed, factors)


def noise_latency(model: Salmonn, settings: BenchmarkSettings, seed: int, rounds: Rounds) -> Latency:
    """The upstream protocol, see ``noise_answers``."""
    protocol = settings.noise_protocol
    return _latency(noise_protocol(protocol), noise_answers(model, protocol, seed, rounds))


def noise_protocol(protocol: NoiseLatency) -> str:
    """The upstream protocol in words."""
    return (
        f"{_NOISE_SECONDS} s of noise, one decode step, {protocol.iterations} iterations "
        f"after {protocol.warmup} for warming up"
    )


def noise_answers(model: Salmonn, protocol: NoiseLatency, seed: int, rounds: Rounds) -> Timed[Answer]:
    """The upstream protocol: 10 s of standard-normal noise, recognition prompt, one step after the prefill.

    Unlike upstream's own script the clock waits for the device and the step reads the whole prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_NOISE_SECONDS * SAMPLE_RATE, generator=generator)

    def answer(_: int) -> Answer:
        return timed_answer(model, lambda: model.prepare([noise], "asr"), 2, frozenset())

    timed = rounds.time("timing the upstream protocol", protocol.iterations, protocol.warmup, answer)
    rounds.judge([[run.first for run in one] for one in timed.rounds])
    return timed


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
    with listening(model.device) as clock:
        begin = now(model.device)
        inputs = prepare()
        with stage("prefill"):
            logits, reading = model.prefill(inputs, longest)
            token = logits.argmax(-1)
            ids = [int(token)]
        first = now(model.device)
    while len(ids) < longest and ids[-1] not in ends:
        token = reading.step(token).argmax(-1)
        ids.append(int(token))
    last = now(model.device)
    return Answer(first - begin, last - first, tuple(ids), clock.seconds())


class _Clock(BaseStreamer):
    """Looks at the clock whenever ``generate`` hands on a token, and once when it hands on the prompt."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Note the time; the token is on the host already, so the device has computed it."""
        self.times.append(now(self._device))

    def end(self) -> None:
        """Nothing is left to do."""


@torch.inference_mode()
def generated_answer(model: Salmonn, example: Example, settings: DecodeSettings) -> Answer:
    """One timed answer by transformers' ``generate``; see ``timed_answer``."""
    gc.collect(0)
    clock = _Clock(model.device)
    begin = now(model.device)
    ids = transformers_ids(model, model.prepare_examples([example]), settings, clock)[0].tolist()
    first, last = clock.times[1], clock.times[-1]
    return Answer(first - begin, last - first, tuple(ids))


def greedy_settings(model: Salmonn, example: Example, settings: BenchmarkSettings) -> DecodeSettings:
    """What both runtimes are timed with: of the task's settings only the longest answer counts."""
    own = model.decode_settings(example.task, **settings.decode_changes(example.task))
    return DecodeSettings(num_beams=1, min_length=0, max_new_tokens=own.max_new_tokens)


def _latency(protocol: str, timed: Timed[Answer], real_time_factors: Sequence[float] = ()) -> Latency:
    answers = timed.runs
    ttft = Spread.of([answer.first for answer in answers])
    assert ttft is not None, "both protocols have at least one run"
    parts = {
        name: times
        for name in (*STAGES, OTHER)
        if (times := Spread.of([answer.parts[name] for answer in answers if name in answer.parts]))
    }
    return Latency(
        protocol=protocol,
        ttft=ttft,
        tpot=Spread.of([seconds for answer in answers if (seconds := answer.per_token) is not None]),
        tokens=fmean(len(answer.ids) for answer in answers),
        parts=parts,
        real_time_factor=Spread.of(real_time_factors),
        energy_joules=timed.joules,
    )
