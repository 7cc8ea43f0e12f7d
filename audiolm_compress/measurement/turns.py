"""Several models measured together: each in its own process, all loaded, one of them at work at any time.

Each goes on until it pauses, then the next; when all have come to the same pause, they go on in the opposite
order. So rounds of timing come in the order A B, B A, A B, ...

Memory decides how many are loaded at once. If one, when it is loaded, leaves less than twice what it holds
itself, it and those before it are measured to their end before the next is started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from audiolm_compress.measurement.request import Request
from audiolm_compress.measurement.running import Running, Shown
from audiolm_compress.passes.base import Progress

_ROOM = 2  # times what a loaded model holds; inference and a larger model need more than it does
_GIB = 2**30


@dataclass(frozen=True)
class Side:
    """A model to measure, and what progress and messages call it."""

    name: str
    request: Request


# Is told where models with these places have paused, and returns when they may go on.
Paused = Callable[[str, range], None]


def measure_in_turns(sides: Sequence[Side], progress: Progress, paused: Paused) -> list[dict[str, Any]]:
    """What the processes of all models wrote, with a note on the order in which they were timed.

    Raises:
        AudioLMError: what went wrong in one of them.
    """
    found: list[dict[str, Any]] = []
    while len(found) < len(sides):
        with ExitStack() as stack:
            found += _together(sides[len(found) :], len(found), progress, paused, stack)
    return found


def _together(
    sides: Sequence[Side], first: int, progress: Progress, paused: Paused, stack: ExitStack
) -> list[dict[str, Any]]:
    """As many of ``sides`` as fit into memory; the place of the foremost is ``first``."""
    shown = Shown(progress)
    running: list[Running] = []
    moments: list[str | None] = []
    for side in sides:
        shown.names.append(side.name)
        running.append(stack.enter_context(Running(side.request, side.name, shown)))
        moments.append(running[-1].proceed())
        if not side.request.in_turns or _full(running[-1]):
            break
    places = range(first, first + len(running))
    order = list(running)
    while (moment := moments[0]) is not None:
        assert set(moments) == {moment}, f"models that are timed in turns have paused at {moments}"
        paused(moment, places)
        moments = [one.proceed() for one in order]
        order.reverse()
    if note := _note(running, sides):
        for one in running:
            one.result["measurements"]["notes"].append(note)
    return [one.result for one in running]


def _full(process: Running) -> bool:
    return process.free is not None and process.free < _ROOM * process.held


def _note(running: Sequence[Running], sides: Sequence[Side]) -> str:
    """How these were timed; "" of a model that was to be timed alone."""
    if not sides[0].request.in_turns:
        return ""
    if len(running) > 1:
        names = ", ".join(side.name for side in sides[: len(running)])
        return f"timed in turns, their rounds in the order A B, B A, ...: {names}"
    if len(sides) > 1:
        free, held = (running[0].free or 0) / _GIB, running[0].held / _GIB
        return (
            f"timed alone, not in turns: {free:.1f} GiB of memory were free beside this model's {held:.1f}, "
            f"and {_ROOM} times as much is asked for"
        )
    return "timed alone, not in turns: the other models had left no memory for it"
