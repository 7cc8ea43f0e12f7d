"""Trying a recipe on a narrow twin finds what a run would stumble over, says it alike, and finds no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from audiolm_compress.data.example import Example
from audiolm_compress.errors import AudioLMError, PassError
from audiolm_compress.passes.base import Context, Pass, PassReport, Silent
from audiolm_compress.pipeline import apply_passes
from audiolm_compress.planning.layers import layers_of
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.rehearsal import rehearse
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model
from audiolm_compress.salmonn.twin import narrow_config, narrow_twin

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))


def recipe_of(baseline: Path | str, *passes: dict[str, Any]) -> Recipe:
    return load_recipe({"baseline": str(baseline), "passes": list(passes)})


@pytest.fixture
def examples(clips: list[torch.Tensor]) -> list[Example]:
    texts = ("the quick brown fox", "a dog barks in the rain")
    return [Example(str(i), clips[i % 2], "asr", texts[i % 2], (texts[i % 2],)) for i in range(4)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_can_be_rehearsed(recipe: Path) -> None:
    done = rehearse(load_recipe(recipe))
    assert done.twin is not None
    assert all(report is not None and report.summary for report in done.reports)
    assert not done.notes


WRONG = [
    [{"pass": "gptq", "group_size": 32}, {"pass": "merge_lora"}],
    [{"pass": "merge_lora"}, {"pass": "gptq", "overrides": [{"match": "llm.*.layers.77.*", "bits": 8}]}],
    [{"pass": "gptq", "group_size": 32}, {"pass": "gptq"}],
    [{"pass": "merge_lora"}, {"pass": "layer_drop", "part": "llm", "method": "even", "keep": 9}],
    [{"pass": "quantize_embedding"}, {"pass": "cast", "parts": ["llm"]}],
]


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")
@pytest.mark.parametrize("passes", WRONG, ids=lambda passes: passes[-1]["pass"])
def test_errors_are_those_of_the_run(
    small_model: Callable[..., Salmonn], parity: Path, examples: list[Example], passes: list[dict[str, Any]]
) -> None:
    recipe = recipe_of(parity / "llama" / "config.yaml", *passes)
    with pytest.raises(PassError) as late:
        apply_passes(small_model("llama"), recipe, examples * 4, Silent())
    with pytest.raises(PassError) as early:
        rehearse(recipe, examples)
    assert str(early.value) == str(late.value)
    assert str(early.value).startswith(f"pass 2 of 2 (after {passes[0]['pass']}): ")


def test_data_that_are_not_there_are_no_reason_to_refuse(parity: Path) -> None:
    """Only clips with their audio can be counted; the twin needs less than the model, and makes its own."""
    passes = [{"pass": "merge_lora"}, {"pass": "gptq"}]
    data = {"calibration_clips": 1}
    recipe = load_recipe({"baseline": str(parity / "gemma" / "config.yaml"), "data": data, "passes": passes})
    assert rehearse(recipe).reports[1] is not None


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_too_little_calibration_data_is_refused_as_the_run_would(
    small_model: Callable[..., Salmonn], parity: Path, examples: list[Example], variant: str
) -> None:
    """A clip of 1 s has fewer positions than a feed-forward has inputs: found without the twin."""
    unpad = {"pass": "unpad_audio", "bucket_seconds": 1.0}
    passes = ({"pass": "merge_lora"}, unpad, {"pass": "gptq", "group_size": 32})
    recipe = recipe_of(parity / variant / "config.yaml", *passes)
    short = [replace(examples[0], waveform=examples[0].waveform[:16000], text="a")]
    with pytest.raises(PassError) as late:
        apply_passes(small_model(variant), recipe, short, Silent())
    with pytest.raises(PassError) as early:
        rehearse(recipe, short)
    assert str(early.value) == str(late.value)
    assert "needs at least as many calibration positions; found" in str(early.value)


class Stranger(Pass):
    """A pass of somebody else."""

    kind: str = "stranger"

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        raise AudioLMError("needs a model of at least a billion parameters")


def test_passes_from_outside_are_not_held_against_the_twin(parity: Path) -> None:
    recipe = recipe_of(parity / "llama" / "config.yaml", {"pass": "merge_lora"})
    recipe = recipe.model_copy(update={"passes": (*recipe.passes, Stranger())})
    done = rehearse(recipe)
    assert done.reports[1] is None
    assert done.notes == ("pass 2 (stranger) cannot predict, so it was not tried",)


@pytest.mark.parametrize("source", ["tiny", "gemma", "llama"])
def test_twin_has_the_structure_of_its_model(parity: Path, source: str) -> None:
    outline = outline_model("tiny" if source == "tiny" else parity / source / "config.yaml").model
    twin = narrow_twin(outline)
    own, narrow = outline.state_dict(), twin.state_dict()
    assert own.keys() == narrow.keys()
    assert all(narrow[name].dtype == tensor.dtype for name, tensor in own.items())
    assert all(narrow[name].numel() <= tensor.numel() for name, tensor in own.items())
    assert [layer.reads for layer in layers_of(twin)] == [layer.reads for layer in layers_of(outline)]
    assert len(twin.tokenizer) == len(outline.tokenizer)
    texts = twin.generate([torch.zeros(16000)], prompt="What is heard?", num_beams=1, max_new_tokens=2)
    assert len(texts) == 1


def test_widths_of_a_real_model_become_narrow_and_stay_valid() -> None:
    """Heads keep their number; what is divided by them still can be."""
    config = {
        "speech_encoder": {"d_model": 1280, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120},
        "audio_encoder": {
            "embed_dim": 512,
            "encoder_embed_dim": 768,
            "encoder_ffn_embed_dim": 3072,
            "encoder_attention_heads": 12,
            "conv_pos_groups": 16,
        },
        "connector": {"hidden": 768, "heads": 12, "intermediate": 3072},
        "llm": {
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
    }
    narrow = narrow_config(config)
    assert narrow["speech_encoder"] == {"d_model": 160, "encoder_attention_heads": 20, "encoder_ffn_dim": 160}
    assert narrow["audio_encoder"]["encoder_embed_dim"] == 96
    assert narrow["llm"]["hidden_size"] == 64
    assert narrow["llm"]["head_dim"] == 8
    assert narrow["connector"] == {
        "hidden": 96,
        "heads": 12,
        "intermediate": 96,
        "speech_width": 160,
        "audio_width": 96,
        "llm_width": 64,
    }
