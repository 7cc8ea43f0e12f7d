"""How fast a device can read memory and multiply: published peaks, and a short measurement of this one.

Peaks are those of the makers' data sheets, dense (no structured sparsity):

* V100 SXM2 32 GB: 900 GB/s; 15.7 TFLOP/s in float32, 125 in 16 bit on tensor cores (NVIDIA V100 Tensor Core
  GPU data sheet, January 2020). It has neither bfloat16 nor integer tensor cores: 8 bit is computed in 16.
* A100 SXM 80 GB: 2039 GB/s; 19.5 in float32, 312 in 16 bit, 624 TOP/s in int8 (NVIDIA A100 data sheet, 2021).
* H100 SXM 80 GB: 3350 GB/s; 67 in float32, 989 in 16 bit, 1979 TOP/s in int8 (NVIDIA H100 data sheet, 2023,
  which prints twice as much for the last two: its figures are with sparsity).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

_READ_BYTES = 256 * 2**20  # beyond every cache
_SIDE = 1024  # of the matrices that are multiplied
_SECONDS = 0.15  # that each measurement runs


@dataclass(frozen=True)
class Device:
    """What a device can do at best.

    Attributes:
        name: for the reader.
        bandwidth: bytes read per second.
        rates: operations per second by type: float32, bfloat16 (float16 is taken to be the same) and int8.
        measured: whether these are measurements, not a data sheet's peaks.
    """

    name: str
    bandwidth: float
    rates: Mapping[torch.dtype, float]
    measured: bool = False

    def reading_seconds(self, count: float) -> float:
        """The least time in which ``count`` bytes can be read."""
        return count / self.bandwidth

    def computing_seconds(self, flops: Mapping[torch.dtype, int]) -> float:
        """The least time in which all of ``flops`` can be computed."""
        return sum(count / self.rate(dtype) for dtype, count in flops.items())

    def rate(self, dtype: torch.dtype) -> float:
        """Operations per second in a type."""
        return self.rates[torch.bfloat16 if dtype == torch.float16 else dtype]


def _peaks(name: str, bandwidth: float, float32: float, half: float, int8: float) -> Device:
    rates = {torch.float32: float32 * 1e12, torch.bfloat16: half * 1e12, torch.int8: int8 * 1e12}
    return Device(name, bandwidth * 1e9, rates)


NAMED_DEVICES = (
    _peaks("V100", 900, 15.7, 125, 125),
    _peaks("A100", 2039, 19.5, 312, 624),
    _peaks("H100", 3350, 67, 989, 1979),
)


def probe_device(device: str | torch.device = "cpu") -> Device:
    """Measure this machine for about a second: reading of 256 MiB, and products of square matrices.

    The best of several runs. A CPU is timed by the seconds that its threads worked, so that what else runs
    there disturbs little; for reading, which threads share, it errs to the fast side, as floors must. A type
    that the device cannot multiply gets the rate of the next wider one, which a program would have to use.
    """
    device = torch.device(device)
    bandwidth = _READ_BYTES / _fastest(torch.ones(_READ_BYTES // 4, device=device).sum, _seconds(device))
    rates: dict[torch.dtype, float] = {}
    wider = 0.0
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        try:
            wider = 2 * _SIDE**3 / _fastest(_product(dtype, device), _seconds(device))
        except RuntimeError:  # NotImplementedError is one too
            if not wider:
                raise
        rates[dtype] = wider
    threads = f" x {torch.get_num_threads()}" if device.type == "cpu" else ""
    return Device(f"this {device}{threads}", bandwidth, rates, measured=True)


def _product(dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    if dtype == torch.int8:
        left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
        return lambda: torch._int_mm(left, left)
    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    return lambda: left @ left


def _fastest(run: Callable[[], object], now: Callable[[], float]) -> float:
    """Seconds of the quickest of the runs that fit in the time of one measurement."""
    run()
    best, begin = float("inf"), now()
    while now() - begin < _SECONDS:
        start = now()
        run()
        best = min(best, now() - start)
    return best


def _seconds(device: torch.device) -> Callable[[], float]:
    """A clock: on a CPU the time that each of its threads has worked, else that when the device is done."""
    if device.type == "cpu":
        return lambda: time.process_time() / torch.get_num_threads()

    def now() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return now
