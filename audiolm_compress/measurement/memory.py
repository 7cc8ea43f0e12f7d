"""Peak memory of this process, which is to be a fresh one that loads one model.

On CUDA it is the allocator's peak after the counter was reset behind loading: weights and everything that
inference needs beside them. On the CPU it is the peak resident set of the process minus its resident set
before loading (libraries and test clips), so loading counts; memory-mapped weights do as far as they were
touched.
"""

from __future__ import annotations

import gc
import re
import resource
import sys
from pathlib import Path

import torch

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.measurement.measurements import Memory
from audiolm_compress.salmonn.model import Salmonn

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMeter:
    """Follows the peak through loading, the upstream protocol and the rest of inference.

    Made before the model is loaded, when all libraries and clips are in memory. Each of ``loaded``,
    ``noise_protocol_begins`` and ``noise_protocol_ends`` is called once, in this order. What other processes
    hold, as models that are timed in turn with this one, is not in it.
    """

    def __init__(self, device: torch.device) -> None:
        gc.collect()
        self._cuda = device.type == "cuda"
        self._device = device
        self._before = 0 if self._cuda else _resident()
        self._resets = True if self._cuda else _reset_peak_resident()
        self._peaks: list[int] = []
        self._noise: int | None = None

    def loaded(self) -> None:
        """The model is in memory; what loading needed for a moment is closed off."""
        self._close()

    def noise_protocol_begins(self) -> None:
        """The upstream protocol starts."""
        self._close()

    def noise_protocol_ends(self) -> None:
        """The upstream protocol is over."""
        self._close()
        self._noise = self._peaks[-1]

    def result(self) -> Memory:
        """The peaks so far."""
        self._close()
        inference = max(self._peaks[1:])
        if self._cuda:
            method = "torch.cuda.max_memory_allocated after loading"
            return Memory(inference, inference, self._noise, method)
        if not self._resets:
            inference_peak, noise = None, None
        else:
            inference_peak, noise = inference, self._noise
        method = "peak resident set of a fresh process, loading included, minus the one before loading"
        return Memory(max(self._peaks), inference_peak, noise, method)

    def held(self) -> int:
        """Bytes that this process holds of the device's memory now."""
        return torch.cuda.memory_reserved(self._device) if self._cuda else _resident()

    def free(self) -> int | None:
        """Bytes of the device's memory that nobody holds; None where the system does not say."""
        if self._cuda:
            return torch.cuda.mem_get_info(self._device)[0]
        return _status("MemAvailable", _MEMINFO) if _MEMINFO.exists() else None

    def _close(self) -> None:
        """End a phase: note its peak and start the counter anew, if the system can."""
        gc.collect()
        if self._cuda:
            self._peaks.append(torch.cuda.max_memory_allocated(self._device))
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        self._peaks.append(_peak_resident() - self._before)
        self._resets = self._resets and _reset_peak_resident()


@torch.inference_mode()
def kv_cache_bytes_per_token(model: Salmonn) -> int:
    """Bytes that each further token adds to the cache, counted in that of a second of silence."""
    _, reading = model.prefill(model.prepare([torch.zeros(SAMPLE_RATE)]))
    return reading.bytes_per_token


def _resident() -> int:
    """Resident set in bytes; on systems without /proc its peak so far, which is no smaller."""
    return _status("VmRSS") if _STATUS.exists() else _usage_peak()


def _peak_resident() -> int:
    # Not getrusage on Linux: its peak is inherited from the process that started this one.
    return _status("VmHWM") if _STATUS.exists() else _usage_peak()


def _status(name: str, file: Path = _STATUS) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", file.read_text(), re.MULTILINE)
    assert found, f"{file} has no {name}"
    return int(found[1]) * 1024


def _usage_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_peak_resident() -> bool:
    """Set the peak back to the present size (proc(5), clear_refs); False where that is not allowed."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True
