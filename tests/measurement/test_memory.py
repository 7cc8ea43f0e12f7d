"""The peak counts what was there, phase by phase."""

from __future__ import annotations

import ctypes
import gc
import sys

import numpy as np
import pytest
import torch

from audiolm_compress.measurement.memory import PeakMeter

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def nothing_is_freed_meanwhile() -> None:
    """What earlier tests have left goes now, and not while a peak is measured against it."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def fill(megabytes: int) -> np.ndarray:
    return np.ones(megabytes * MEGABYTE, dtype=np.int8)


@pytest.mark.skipif(sys.platform != "linux", reason="phases are told apart through /proc")
def test_peaks_of_phases() -> None:
    meter = PeakMeter(torch.device("cpu"))
    weights = fill(60)
    spare = fill(100)
    del spare
    meter.loaded()
    meter.noise_protocol_begins()
    work = fill(40)
    del work
    meter.noise_protocol_ends()
    work = fill(20)
    del work
    memory = meter.result()
    assert memory.peak == pytest.approx(160 * MEGABYTE, abs=12 * MEGABYTE)
    assert memory.inference_peak == pytest.approx(100 * MEGABYTE, abs=12 * MEGABYTE)
    assert memory.noise_protocol_peak == memory.inference_peak
    assert len(weights) == 60 * MEGABYTE
