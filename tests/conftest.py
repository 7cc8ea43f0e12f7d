"""Small real models for all tests: the upstream parity sets, which hold complete checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream import load_upstream

PARITY = Path(__file__).parent / "fixtures" / "upstream_parity"


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of the parity sets."""
    return PARITY


@pytest.fixture(scope="session")
def clips() -> list[torch.Tensor]:
    """Two clips of 10 s and 3.2 s, float32 [samples] at 16 kHz."""
    audio = PARITY / "llama" / "audio"
    return [torch.from_numpy(soundfile.read(audio / f"clip{i}.wav", dtype="float32")[0]) for i in (0, 1)]


@pytest.fixture
def small_model() -> Callable[[str], Salmonn]:
    """Loads a fresh random SALMONN (``gemma`` or ``llama``), float32, LoRA unmerged."""
    return lambda variant="llama": load_upstream(PARITY / variant / "config.yaml")
