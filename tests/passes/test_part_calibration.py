"""Positions counted beforehand are those that the blocks of a part read in calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from audiolm_compress.passes.base import Context
from audiolm_compress.passes.part_calibration import calibration_positions, evaluating, part_calibration
from audiolm_compress.quantization.blocks import hidden_states
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model


@pytest.mark.parametrize("bucket", [None, 1.0])
@pytest.mark.parametrize("part", ["speech_encoder", "audio_encoder", "llm"])
def test_positions_are_those_of_the_run(
    small_model: Callable[..., Salmonn], parity: Path, context: Context, part: str, bucket: float | None
) -> None:
    """Clips of 10 s, 3.2 s and half a second in batches of three, and one alone."""
    model, outline = small_model("gemma"), outline_model(parity / "gemma" / "config.yaml").model
    model.bucket_seconds = outline.bucket_seconds = bucket
    clips = context.calibration
    short = dataclasses.replace(clips[0], waveform=clips[0].waveform[:8000])
    examples = [clips[0], clips[1], short, clips[3]]
    seen: list[Tensor] = []
    first = model.layers(part)[0]
    first.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(hidden_states(args, kwargs)), with_kwargs=True
    )
    with evaluating(model):
        run, masks = part_calibration(model, part, examples, 3)
        for index in range(len(masks)):
            run(index)
    found = sum(
        int(states[..., 0].numel() if mask is None else mask.sum())
        for states, mask in zip(seen, masks, strict=True)
    )
    assert calibration_positions(model, part, examples, 3) == found
    assert calibration_positions(outline, part, examples, 3) == found
