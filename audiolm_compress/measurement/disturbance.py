"""Whether the machine was busy with something else, or slowed down, while it was timed.

A note is made where

* other processes took more than a tenth of all processor time (``/proc/stat`` minus this process's own);
* the kernel counted throttling for heat (``thermal_throttle`` under ``/sys``);
* the clock of the fastest core fell below four fifths of what it had been (``cpufreq`` under ``/sys``);
* runs that all do the same differ: the 95th percentile is over 1.5 times the 5th, or one round's median over
  1.1 times another's.

What a system does not show, or too short a time to tell (the kernel counts in steps of 10 ms), gives none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BUSY = 0.1
_SLOWED = 0.8
_SPREAD = 1.5
_DRIFT = 1.1
_SHORTEST = 0.5  # seconds, in which a step of the kernel's count is 2 % of a core
_FEWEST = 5  # runs of a round whose median is looked at

_STAT = Path("/proc/stat")
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Load:
    """Processor time so far in seconds: of everything, and of this process; and the clock on the wall."""

    everything: float
    own: float
    wall: float
    cores: int


class Watch:
    """Looks at the machine around every block that is timed."""

    def __init__(self) -> None:
        self._others = self._room = self._wall = 0.0
        self._throttled = 0
        self._clocks: list[float] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time counts inside."""
        load, throttled = _load(), _throttled()
        yield
        if load is not None and (after := _load()) is not None:
            wall = after.wall - load.wall
            own = after.own - load.own
            self._others += max(0.0, after.everything - load.everything - own)
            self._room += wall * after.cores
            self._wall += wall
        self._throttled += _throttled() - throttled
        self._clocks += _fastest_core()

    def notes(self) -> list[str]:
        """What was seen so far."""
        notes = []
        if self._wall >= _SHORTEST and (share := self._others / self._room) > _BUSY:
            notes.append(
                f"the machine was busy: other processes took {share:.0%} of all processor time while this "
                f"model was timed (more than {_BUSY:.0%} is noted)"
            )
        if self._throttled > 0:
            notes.append(
                f"the machine was hot: it throttled {self._throttled} times while this model was timed"
            )
        if self._clocks and min(self._clocks) < _SLOWED * max(self._clocks):
            notes.append(
                f"the machine changed its clock between {min(self._clocks):.1f} and "
                f"{max(self._clocks):.1f} GHz while this model was timed"
            )
        return notes


def unsteady(rounds: Sequence[Sequence[float]]) -> list[str]:
    """Notes on runs that all did the same: their seconds, by round."""
    notes = []
    if min(map(len, rounds)) < _FEWEST:
        return []
    low, high = np.percentile(np.concatenate([np.asarray(one) for one in rounds]), [5, 95])
    if high > _SPREAD * low:
        notes.append(
            f"the machine was unsteady: TTFT of the same input has a 95th percentile of "
            f"{high / low:.1f} times the 5th (more than {_SPREAD} is noted)"
        )
    medians = [float(np.median(one)) for one in rounds]
    if max(medians) > _DRIFT * min(medians):
        notes.append(
            f"the machine drifted: TTFT of the same input has a median of {max(medians) / min(medians):.2f} "
            f"times that of another round (more than {_DRIFT} is noted)"
        )
    return notes


def _load() -> Load | None:
    if not _STAT.exists():
        return None
    lines = [line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
    # proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user and nice.
    ticks = [int(value) for value in lines[0][1:9]]
    busy = sum(ticks) - ticks[3] - ticks[4]
    return Load(busy / os.sysconf("SC_CLK_TCK"), time.process_time(), time.perf_counter(), len(lines) - 1)


def _throttled() -> int:
    return sum(
        int(file.read_text())
        for kind in ("core", "package")
        for file in _CPUS.glob(f"cpu[0-9]*/thermal_throttle/{kind}_throttle_count")
    )


def _fastest_core() -> list[float]:
    """GHz, in a list that is empty if the system does not say."""
    files = _CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    return [max(clocks)] if (clocks := [int(file.read_text()) / 1e6 for file in files]) else []
