"""Energy of timed runs, where the platform counts it.

Intel's and AMD's processors count the energy of each package and its memory (Running Average Power Limit;
David et al., ISLPED 2010), which Linux shows under ``/sys/class/powercap``; NVIDIA's cards since Volta count
their own, read by ``pynvml``. Both include what an idle machine takes and what other programs cause.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")


@dataclass
class Spent:
    """Joules between the beginning and the end of a block, known behind it; None if nothing counts them."""

    joules: float | None = None


@dataclass(frozen=True)
class Counter:
    """A count of energy.

    Attributes:
        read: the count now, in microjoules.
        size: it starts again at 0 when it reaches this; None if it never does.
    """

    read: Callable[[], int]
    size: int | None = None

    def between(self, before: int, after: int) -> int:
        """Microjoules from one reading to a later one, between which it started again at most once."""
        return after - before if self.size is None else (after - before) % self.size


class EnergyMeter:
    """Counts what a device takes.

    Args:
        device: the card, or the processor for everything else.
        powercap: where Linux shows the processor's counters.

    Attributes:
        note: what is counted, or why there is no energy.
    """

    def __init__(self, device: torch.device, powercap: Path = _POWERCAP) -> None:
        self._counters, self.note = _card(device) if device.type == "cuda" else _packages(powercap)

    @contextmanager
    def measuring(self) -> Iterator[Spent]:
        """The energy of what is done inside."""
        spent = Spent()
        before = [counter.read() for counter in self._counters]
        yield spent
        if self._counters:
            counts = zip(self._counters, before, strict=True)
            spent.joules = sum(counter.between(start, counter.read()) for counter, start in counts) / 1e6


def _packages(powercap: Path) -> tuple[list[Counter], str]:
    """The processor's packages and their memory; other counters are parts of these, or hold them."""
    zones = [
        zone
        for zone in sorted(powercap.glob("intel-rapl:*"))
        if (zone / "name").read_text().strip().startswith(("package", "dram"))
    ]
    if not zones:
        return [], f"no energy: this machine shows no counter of its processor (RAPL) under {powercap}"
    try:
        counters = [_package(zone) for zone in zones]
    except PermissionError as error:
        return [], f"no energy: {error.filename} may not be read; root can allow it (chmod a+r)"
    names = ", ".join((zone / "name").read_text().strip() for zone in zones)
    return counters, f"energy: of the processor ({names}; RAPL), idle power and other programs included"


def _package(zone: Path) -> Counter:
    file = zone / "energy_uj"
    file.read_text()
    # The largest value that it shows, so it has one more.
    size = int((zone / "max_energy_range_uj").read_text()) + 1
    return Counter(lambda: int(file.read_text()), size)


def _card(device: torch.device) -> tuple[list[Counter], str]:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return [], "no energy: reading the card's counter needs pynvml (pip install nvidia-ml-py)"
    try:
        nvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return [], f"no energy: the card's counter cannot be read ({error})"
    # It counts millijoules since the driver was loaded.
    counter = Counter(lambda: 1000 * int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)))
    return [counter], "energy: of the card (NVML), idle power and other programs included"
