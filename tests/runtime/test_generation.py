"""Greedy and beam search over our decoder give the ids of transformers' generate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from audiolm_compress.runtime.settings import RuntimeSettings
from audiolm_compress.salmonn.generation import runs_natively, transformers_ids
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.wrapping import Inputs

CASES: tuple[dict[str, Any], ...] = (
    {"num_beams": 1},
    {"num_beams": 1, "repetition_penalty": 1.7},
    {"num_beams": 1, "min_length": 6},
    {"num_beams": 4},
    {"num_beams": 4, "repetition_penalty": 1.7},
    {"num_beams": 3, "length_penalty": 2.0},
    {"num_beams": 3, "length_penalty": -1.0, "max_new_tokens": 5},
)


def prompts(model: Salmonn, clips: list[torch.Tensor]) -> dict[str, Inputs]:
    """One clip, and two with prompts of different length, so that one is padded."""
    around = [model.prompts.around(task) for task in ("audiocaption", "asr")]
    with torch.inference_mode():
        audio = model.encode_audio(clips)
        alone = model.encode_audio(clips[1:])
        both = model.wrap(audio, around, padding_side="left")
        return {"one": model.wrap(alone, around[:1], padding_side="left"), "two": both}


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_ids_are_those_of_transformers(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor], variant: str
) -> None:
    model = small_model(variant)
    inputs = prompts(model, clips)
    assert not inputs["two"].mask.all()
    for name, batch in inputs.items():
        for case in CASES:
            # The prompt counts as part of the shortest answer.
            longer = {"min_length": case["min_length"] + batch.mask.shape[1]} if "min_length" in case else {}
            settings = model.decode_settings("asr", **case | longer)
            assert runs_natively(model)
            ours = model.generate_ids(batch, settings)
            assert ours.tolist() == transformers_ids(model, batch, settings).tolist(), (name, case)


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=["greedy", "beams"])
def test_answers_of_any_end(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor], case: dict[str, Any]
) -> None:
    """With ids that come often as ends, answers of a batch end at different lengths; with none, nowhere."""
    model = small_model("llama")
    batch = prompts(model, clips)["two"]
    settings = model.decode_settings("asr", **case)
    own = model.generate_ids(batch, settings)
    for ends in (None, own[0, 4].item(), [int(own[0, 2]), int(own[1, 5]), 7]):
        model.causal_lm.generation_config.eos_token_id = ends
        ours = model.generate_ids(batch, settings)
        assert ours.tolist() == transformers_ids(model, batch, settings).tolist()
        if ends is None:
            assert ours.shape[1] == settings.max_new_tokens


def test_transformers_answers_when_asked_for(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor]
) -> None:
    model = small_model("gemma")
    batch = prompts(model, clips)["two"]
    native = model.prefill(batch)[0]
    assert model.runtime_note == ""
    model.runtime = RuntimeSettings(engine="transformers")
    assert "as asked for" in model.runtime_note
    logits, reading = model.prefill(batch)
    torch.testing.assert_close(logits, native, atol=1e-4, rtol=0)
    assert model.decode_step(logits.argmax(-1), reading).shape == logits.shape
