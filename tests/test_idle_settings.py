"""A setting that another one leaves without effect is refused; the same recipe written out in full is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from audiolm_compress.errors import RecipeError
from audiolm_compress.recipe import load_recipe
from audiolm_compress.report.html import PageSettings

ROOT = Path(__file__).parents[1]
FURTHER = sorted((ROOT / "benchmarks").rglob("*.yaml"))  # those of recipes/: tests/test_recipe.py
PASSES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [  # entry, complaint, what makes it count
    (
        {"pass": "gptq", "bit_choices": [2, 4], "sensitivity_clips": 4},
        "passes.0: bit_choices, sensitivity_clips do nothing beside bits=4; give bits: auto, or leave them",
        {"bits": "auto", "average_bits": 3},
    ),
    (
        {"pass": "distill", "temperature": 2.0, "losses": {"logits": 0}},
        "passes.0: temperature does nothing beside losses.logits=0; give that loss a weight, or leave it out",
        {"losses": {"logits": 0.5}},
    ),
    (
        {"pass": "distill", "parts": ["connector"], "audio_layers": {0: 1}},
        "audio_layers does nothing beside parts=connector; add audio_encoder to them",
        {"parts": ["audio_encoder"]},
    ),
    (
        {"pass": "distill", "minutes": 5, "epochs": None, "warmup_share": 0.1},
        "warmup_share does nothing beside minutes alone; give epochs or steps",
        {"steps": 100},
    ),
    (
        {"pass": "distill", "augment": {"speed": 0.2, "noise_db": [10, 20]}},
        "passes.0.augment: speed, noise_db do nothing beside copies=0; give copies of 1 or more",
        {"augment": {"copies": 1, "speed": 0.2, "noise_db": [10, 20]}},
    ),
    (
        {"pass": "lora_recovery", "losses": {"connector": 2}},
        "losses.connector does nothing beside training of llm alone; train audio_encoder or connector or",
        {"train_connector": True},
    ),
    (
        {"pass": "scale_recovery", "weight_decay": 0.1, "scales": False},
        "weight_decay does nothing beside scales=false; train the scales",
        {"scales": True},
    ),
    (
        {"pass": "prune_width", "part": "llm", "heads": 0.5, "round_to": 16},
        "round_to does nothing beside ffn=1; give ffn below 1",
        {"ffn": 0.5},
    ),
    (
        {"pass": "decode_search", "num_beams": [1], "length_penalty": [0.5]},
        "length_penalty does nothing beside num_beams: [1]; add a number of beams above 1",
        {"num_beams": [1, 2]},
    ),
]
SECTIONS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    (
        "benchmark",
        {"runtime": {"engine": "transformers", "compile": True}},
        "benchmark.runtime: compile does nothing beside engine: transformers; give engine: native",
        {"runtime": {"engine": "native", "compile": True}},
    ),
    (
        "benchmark",
        {"decode": {"asr": {"num_beams": 1, "length_penalty": 1.0}}},
        "benchmark.decode.asr: length_penalty does nothing beside num_beams: 1",
        {"decode": {"asr": {"length_penalty": 1.0}}},
    ),
    (
        "benchmark",
        {"decode": {"aac": {"do_sample": False, "temperature": 2.0, "top_p": 0.5}}},
        "benchmark.decode.aac: temperature, top_p do nothing beside do_sample: false",
        {"decode": {"aac": {"temperature": 2.0, "top_p": 0.5}}},
    ),
    (
        "data",
        {"prefix": str(ROOT), "channel": "mean", "on_bad_audio": "skip"},
        "data: prefix, channel, on_bad_audio do nothing beside embedded clips alone; name an annotation",
        {"test": str(ROOT / "audiolm_compress/salmonn/tiny/data/test.json")},
    ),
]


def recipe_of(entry: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    return {"passes": [entry or {"pass": "merge_lora"}], **sections}


@pytest.mark.parametrize(("entry", "complaint", "remedy"), PASSES, ids=lambda case: str(case)[:40])
def test_what_does_nothing_in_a_pass_is_refused(
    entry: dict[str, Any], complaint: str, remedy: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_of(entry))
    assert complaint in str(caught.value)
    load_recipe(recipe_of(entry | remedy))


@pytest.mark.parametrize(("name", "section", "complaint", "remedy"), SECTIONS)
def test_what_does_nothing_in_a_section_is_refused(
    name: str, section: dict[str, Any], complaint: str, remedy: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_of(**{name: section}))
    assert complaint in str(caught.value)
    load_recipe(recipe_of(**{name: section | remedy}))


def test_what_says_what_happens_anyway_is_not_refused() -> None:
    load_recipe(recipe_of({"pass": "lora_recovery", "losses": {"speech": 0, "audio": 0}}))
    load_recipe(recipe_of({"pass": "gptq", "bits": 3, "prefill_activations": 16}))


def test_a_page_without_clips_has_no_use_for_their_sound() -> None:
    with pytest.raises(ValueError, match="audio_mib does nothing beside audio_clips=0"):
        PageSettings(audio_clips=0, audio_mib=2)
    with pytest.raises(ValueError, match="audio_clips does nothing beside clips=0"):
        PageSettings(clips=0, audio_clips=3)


@pytest.mark.parametrize("file", FURTHER, ids=lambda file: file.stem)
def test_recipes_of_benchmarks_load_and_so_does_what_is_written_of_them(file: Path) -> None:
    recipe = load_recipe(file)
    assert load_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("entry", [entry | remedy for entry, _, remedy in PASSES], ids=lambda e: e["pass"])
def test_passes_with_all_defaults_written_out_load(entry: dict[str, Any]) -> None:
    recipe = load_recipe(recipe_of(entry))
    assert load_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
