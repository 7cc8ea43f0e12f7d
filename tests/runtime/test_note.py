"""What the report says of how the LLM runs."""

from __future__ import annotations

from collections.abc import Callable

from audiolm_compress.runtime.settings import RuntimeSettings
from audiolm_compress.salmonn.generation import runtime_note
from audiolm_compress.salmonn.model import Salmonn


def test_compiling_is_said(small_model: Callable[..., Salmonn]) -> None:
    """Of models whose audio leaves a gap between positions as of others."""
    model = small_model()
    assert runtime_note(model) == ""
    model.runtime = RuntimeSettings(compile=True)
    expected = "decode steps of single texts are compiled by torch.compile; batches and beams are not"
    assert runtime_note(model) == expected
    model.audio_positions = 88
    assert runtime_note(model) == expected
