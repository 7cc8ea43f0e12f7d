"""Who works on a trial, and whether they still do.

A process that is killed cannot say so. On its own machine the system tells (no process of that number, or one
that started at another time). From elsewhere it is given up when its heartbeat, a number in the study's
storage that it counts up every 20 s, has stood still for 3 minutes of the watcher's own clock: clocks of
different machines are never compared.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil

_BEAT_SECONDS = 20.0
_PATIENCE_SECONDS = 180.0


def this_process() -> dict[str, Any]:
    """Machine, process number and start: what nobody else has."""
    return {
        "machine": platform.node(),
        "process": os.getpid(),
        "started": psutil.Process().create_time(),
    }


class Watch:
    """Remembers how long it has seen heartbeats stand still."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_lost(self, number: int, owner: Mapping[str, Any] | None, beat: Any) -> bool:
        """Whether nobody works on a running trial any more.

        Args:
            number: of the trial.
            owner: as ``this_process`` gave it; None if it was killed before it could say.
            beat: the heartbeat as it is in the storage.
        """
        if owner is not None and owner["machine"] == platform.node():
            return not _is_running(owner)
        known, since = self._seen.get(number, (None, 0.0))
        if number not in self._seen or known != beat:
            self._seen[number] = beat, time.monotonic()
            return False
        return time.monotonic() - since > _PATIENCE_SECONDS


def _is_running(owner: Mapping[str, Any]) -> bool:
    try:
        process = psutil.Process(owner["process"])
        return process.create_time() == owner["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def heartbeat(write: Callable[[int], None]) -> Iterator[None]:
    """Inside, ``write`` is called with 1, 2, ... every 20 s from a thread."""
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(_BEAT_SECONDS):
            count += 1
            write(count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
