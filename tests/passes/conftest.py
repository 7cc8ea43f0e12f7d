"""What every pass is tried with."""

from __future__ import annotations

import pytest
import torch

from audiolm_compress.data.example import Example
from audiolm_compress.passes.base import Context


def _no_reference() -> None:
    raise AssertionError("this pass needs no teacher")


@pytest.fixture(scope="session")
def calibration(clips: list[torch.Tensor]) -> list[Example]:
    """Eight calibration clips of both tasks, seeded."""
    generator = torch.Generator().manual_seed(3)
    examples = []
    for index in range(8):
        clip = clips[index % 2]
        noise = 0.02 * torch.randn(len(clip), generator=generator)
        task, text = (
            ("asr", "the quick brown fox") if index % 2 else ("audiocaption", "a dog barks in the rain")
        )
        examples.append(Example(str(index), clip + noise, task, text, (text,)))
    return examples


@pytest.fixture
def context(calibration: list[Example]) -> Context:
    """The calibration clips, and chance as it always is."""
    return Context(calibration, torch.Generator().manual_seed(7), _no_reference)  # type: ignore[arg-type]
