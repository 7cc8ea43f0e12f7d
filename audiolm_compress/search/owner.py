"""Who works on a trial, and whether they still do.

A process that is killed cannot say so. On its own machine the system tells: there is no process of that
number, or it is the one that started when the owner did. Where that is not known, it is given up when its
heartbeat, a number in the study's storage that it counts up every 20 s, has stood still for 3 minutes of the
watcher's own clock: clocks of different machines are never compared. That goes for other machines, and for a
number whose process started at another time: either it is a later one, or the clock was set meanwhile.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

_BEAT_SECONDS = 20.0
_PATIENCE_SECONDS = 180.0


def this_process() -> dict[str, Any]:
    """Where it runs, its number there, and when it started."""
    return {
        "machine": platform.node(),
        "system": _system(),
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
        if owner is not None and (owner["machine"], owner.get("system")) == (platform.node(), _system()):
            started = _started(owner["process"])
            if started is None or started == owner["started"]:
                return started is None
        known, since = self._seen.get(number, (None, 0.0))
        if number not in self._seen or known != beat:
            self._seen[number] = beat, time.monotonic()
            return False
        return time.monotonic() - since > _PATIENCE_SECONDS


def _system() -> str:
    """Where a process number means the same: machines may share a name, and containers a machine.

    Linux tells; elsewhere the machine's name must do.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(number: int) -> float | None:
    """When the process of this number started; None if there is none."""
    try:
        process = psutil.Process(number)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


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
