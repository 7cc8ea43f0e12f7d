"""The stages on the way to the first token, for whoever times them.

The functions that do the work of a stage are marked with its name. While somebody listens, the clock is read
at each beginning and end; a stage inside another interrupts it, so that every moment belongs to one stage or
to none. Nobody listening, a mark costs a look at a variable.

On a CUDA card a mark is an event in the stream, whose time is asked for when all is over. Waiting for the
card at every mark would keep the host from running ahead, and so change what is timed.

Example:
    >>> @stage("features")
    ... def spectrum():
    ...     return sum(range(1000))
    >>> with listening(torch.device("cpu")) as clock:
    ...     value = spectrum()
    >>> list(clock.seconds())
    ['features']
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch

Stage = Literal["features", "speech_encoder", "audio_encoder", "connector", "prefill"]

STAGES: tuple[Stage, ...] = ("features", "speech_encoder", "audio_encoder", "connector", "prefill")


class StageClock:
    """Notes which stage is at work from when to when.

    Args:
        device: where the stages compute.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._mark: Callable[[], Any] = _event if cuda else lambda: now(device)
        self._between: Callable[[Any, Any], float] = _event_seconds if cuda else lambda a, b: b - a
        self._at_work: list[Stage] = []
        self._marks: list[tuple[Any, Stage | None]] = []

    def begins(self, name: Stage) -> None:
        """The stage starts, and interrupts the one that it is in."""
        self._at_work.append(name)
        self._marks.append((self._mark(), name))

    def ends(self) -> None:
        """The stage that started last is done, and the one that it was in goes on."""
        self._at_work.pop()
        self._marks.append((self._mark(), self._at_work[-1] if self._at_work else None))

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage that was at work; the device must have come to the end of all of them."""
        found: dict[str, float] = {}
        for (begin, name), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            if name is not None:
                found[name] = found.get(name, 0.0) + self._between(begin, end)
        return {name: found[name] for name in STAGES if name in found}


_LISTENER: ContextVar[StageClock | None] = ContextVar("listener", default=None)


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Work of a stage, as a block or as a decorator."""
    clock = _LISTENER.get()
    if clock is None:
        yield
        return
    clock.begins(name)
    try:
        yield
    finally:
        clock.ends()


@contextmanager
def listening(device: torch.device) -> Iterator[StageClock]:
    """A clock that hears of all stages inside."""
    clock = StageClock(device)
    token = _LISTENER.set(clock)
    try:
        yield clock
    finally:
        _LISTENER.reset(token)


def now(device: torch.device) -> float:
    """Seconds on the host's clock, when ``device`` has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _event_seconds(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return begin.elapsed_time(end) / 1e3
