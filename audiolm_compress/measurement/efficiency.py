"""Upstream's memory and latency evaluation: its protocol, its figures, with the clock and the counter mended.

    TTFT = features, encoders, connector, prompt and prefill of 10 s of noise (batch 1, recognition prompt)
    TPOT = one decode step after it
    inference time = TTFT + TPOT

Upstream prints means over the iterations that follow the warm-up; percentiles stand beside them here, as one
slow iteration moves a mean and not a median. What else differs is said by :data:`DIFFERENCES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.latency import noise_answers, noise_protocol
from audiolm_compress.measurement.measurements import Spread
from audiolm_compress.measurement.memory import PeakMeter
from audiolm_compress.measurement.reporter import Reporter
from audiolm_compress.measurement.rounds import Rounds
from audiolm_compress.measurement.settings import ClipLatency, NoiseLatency
from audiolm_compress.passes.base import Progress
from audiolm_compress.quantization.modules import kernel_report, prepare_modules
from audiolm_compress.salmonn.load import load_model

DIFFERENCES = (
    "the clock waits for the device before each reading; upstream's does not, so that queued work is left "
    "out or counted in the next interval",
    "the decode step reads the whole prompt from the cache that the prefill left; a derivative of upstream's "
    "script times it on a cache of one position",
    "the counter of memory is reset when the model is loaded, where the system can do that; upstream's is "
    "not, so it holds the peak of loading, and its mean over iterations is that peak",
    "on a CPU memory is the peak resident set of this process beyond that before loading; upstream needs a "
    "CUDA card",
    "iterations come in rounds, each after a warm-up, which tells how steady the machine was",
    "the allocator's cache is not emptied between iterations, and garbage is collected before the clock runs",
    "TTFT includes the features of the waveform (mel spectrogram); upstream has them before its clock runs",
)


@dataclass(frozen=True)
class Times:
    """Seconds of one figure: upstream's mean, and how the iterations spread."""

    mean: float
    spread: Spread

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Of single iterations, at least one."""
        spread = Spread.of(seconds)
        assert spread is not None, "the protocol has at least one iteration"
        return cls(fmean(seconds), spread)


@dataclass(frozen=True)
class Efficiency:
    """What upstream's protocol found about one model.

    Attributes:
        source: what was given to ``load_model``.
        protocol: in words.
        memory_bytes: peak during the iterations; since loading where the system cannot reset its counter.
        memory_method: in words, what was counted.
        inference: TTFT + TPOT.
        ttft: to the first token.
        tpot: of the step after it.
        environment: versions, device, threads, seed, kernels.
        notes: what a reader must know besides ``DIFFERENCES``.
    """

    source: str
    protocol: str
    memory_bytes: int
    memory_method: str
    inference: Times
    ttft: Times
    tpot: Times
    environment: dict[str, Any]
    notes: tuple[str, ...]

    def upstream_lines(self) -> list[str]:
        """The four figures as upstream prints them; its GB are 2^30 bytes."""
        return [
            f"Average memory used during inference: {self.memory_bytes / 2**30:.4f} GB",
            f"Average inference time: {self.inference.mean:.4f} seconds",
            f"Average TTFT: {self.ttft.mean:.4f} seconds",
            f"Average TPOT: {self.tpot.mean:.4f} seconds",
        ]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"differences_from_upstream": list(DIFFERENCES)}


class _Here(Reporter):
    """Shows in this process what a measured process would tell the one that started it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, description: str, total: int, *, in_turns: bool = False) -> None:
        self._progress.start(description, total)

    def advance(self, count: int = 1) -> None:
        self._progress.advance(count)


def measure_efficiency(
    source: str, settings: NoiseLatency, *, device: str, seed: int, progress: Progress
) -> Efficiency:
    """Measure one model in this process, which should be fresh and load no other.

    Args:
        source: anything that ``load_model`` takes.
        settings: iterations.
        device: where the model runs.
        seed: of the noise.
        progress: where to show the state.

    Raises:
        BaselineError: the model cannot be loaded.
        DataError: it has no instruction for the task ``asr``.
    """
    meter = PeakMeter(torch.device(device))
    progress.start("loading the model", 1)
    model = load_model(source, device=device)
    slow_kernels = prepare_modules(model)
    meter.loaded()
    progress.advance()
    rounds = Rounds(torch.device(device), ClipLatency().rounds, _Here(progress))
    meter.noise_protocol_begins()
    answers = noise_answers(model, settings, seed, rounds).runs
    meter.noise_protocol_ends()
    memory = meter.result()
    peak = memory.noise_protocol_peak
    return Efficiency(
        source=source,
        protocol=noise_protocol(settings),
        memory_bytes=memory.peak if peak is None else peak,
        memory_method=memory.method,
        inference=Times.of([answer.first + answer.further for answer in answers]),
        ttft=Times.of([answer.first for answer in answers]),
        tpot=Times.of([answer.further for answer in answers]),
        environment=describe_environment(device, seed) | {"kernels": kernel_report(model)},
        notes=(*filter(None, [model.runtime_note]), *slow_kernels, *filter(None, rounds.notes)),
    )
