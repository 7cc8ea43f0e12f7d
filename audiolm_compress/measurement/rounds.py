"""Timed runs in rounds, so that several models can be timed in turns.

A machine is not the same from minute to minute: clocks follow the temperature, and other programs come and
go. Models that are timed one after the other get that as a difference between them. So each protocol is cut
into rounds, and the models take turns in the order A B, B A, A B, ...: what drifts steadily adds as much to
one as to the other. A model timed alone goes through the same rounds, which shows how steady the machine is.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from audiolm_compress.measurement.disturbance import Watch, unsteady
from audiolm_compress.measurement.energy import EnergyMeter
from audiolm_compress.measurement.reporter import Reporter

Run = TypeVar("Run")

_FURTHER_WARMUP = 1


@dataclass(frozen=True)
class Timed(Generic[Run]):
    """What the runs of all rounds gave, and the energy that one took in joules, if that can be read."""

    rounds: list[list[Run]]
    joules: float | None

    @property
    def runs(self) -> list[Run]:
        """Of all rounds, in order."""
        return [run for one in self.rounds for run in one]


class Rounds:
    """The timing of one model, with all that is watched meanwhile.

    Args:
        device: where the model computes.
        count: rounds of each protocol; fewer where it has fewer runs.
        progress: is told of every run.
        in_turns: whether each round waits for the parent's word.
    """

    def __init__(
        self, device: torch.device, count: int, progress: Reporter, *, in_turns: bool = False
    ) -> None:
        self._count = count
        self._progress = progress
        self._in_turns = in_turns
        self._energy = EnergyMeter(device)
        self._watch = Watch()
        self._notes: list[str] = []

    def time(self, what: str, count: int, warmup: int, run: Callable[[int], Run]) -> Timed[Run]:
        """Call ``run`` with 0 to ``count - 1``.

        Args:
            what: a line of progress.
            count: runs that count, at least 1.
            warmup: runs before the first round; every further one, which finds caches that another model has
                filled, has a single one if this is not 0.
            run: one run, which reads the clock itself.
        """
        rounds = min(self._count, count)
        shares = [range(count * i // rounds, count * (i + 1) // rounds) for i in range(rounds)]
        further = min(warmup, _FURTHER_WARMUP)
        results, joules = [], []
        for number, share in enumerate(shares):
            if self._in_turns:
                self._progress.pause("turn")
            if number == 0:
                self._progress.start(what, all_runs(count, warmup, rounds), in_turns=self._in_turns)
            with quiet_clock():
                for index in range(further if number else warmup):
                    run(share[index % len(share)])
                    self._progress.advance()
                with self._watch.watching(), self._energy.measuring() as spent:
                    results.append([self._counted(run, index) for index in share])
                joules.append(spent.joules)
        known = [one for one in joules if one is not None]
        return Timed(results, sum(known) / count if len(known) == rounds else None)

    def judge(self, rounds: Sequence[Sequence[float]]) -> None:
        """Note it if runs that all did the same took different times: seconds, by round."""
        self._notes += unsteady(rounds)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the machine while it was timed."""
        return (*self._watch.notes(), *self._notes, self._energy.note)

    def _counted(self, run: Callable[[int], Run], index: int) -> Run:
        result = run(index)
        self._progress.advance()
        return result


def all_runs(count: int, warmup: int, rounds: int) -> int:
    """Runs of a protocol, those for warming up included; arguments as those of ``Rounds``."""
    return count + warmup + min(warmup, _FURTHER_WARMUP) * (min(rounds, count) - 1)


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
