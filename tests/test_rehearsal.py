"""Trying a recipe on a narrow twin finds what a run would stumble over, says it alike, and finds no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.errors import AudioLMError, PassError
from audiolm_compress.pass_loop import apply_passes
from audiolm_compress.passes import LayerDrop
from audiolm_compress.passes.base import Context, Pass, PassReport, Silent
from audiolm_compress.planning.layers import layers_of
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.planning.work import Clip
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.rehearsal import enough_clips, needed_positions, rehearsal_clips, rehearse
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model
from audiolm_compress.salmonn.twin import narrow_config, narrow_twin
from audiolm_compress.search.space import Space

FOLDER = Path(__file__).parents[1] / "recipes"
SEARCHES = sorted(FOLDER.rglob("search_*.yaml"))
RECIPES = [file for file in sorted(FOLDER.rglob("*.yaml")) if file not in SEARCHES]


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


@pytest.mark.parametrize("file", SEARCHES, ids=lambda path: path.stem)
def test_every_search_can_be_rehearsed_far_from_where_it_begins(file: Path) -> None:
    """Each option parses, and the last option of every choice can stand beside the others."""
    space = Space.read(file, (), None)
    recipe = space.recipe(tuple(len(choice.options) - 1 for choice in space.choices))
    assert all(report is not None and report.summary for report in rehearse(recipe).reports)


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


class Shown(Silent):
    """Keeps the lines that a user would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, description: str, total: int) -> None:
        self.lines.append(description)

    def note(self, text: str) -> None:
        self.lines.append(text)


class Stranger(Pass):
    """A pass of somebody else."""

    kind: str = "stranger"

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        raise AudioLMError("needs a model of at least a billion parameters")


def test_passes_from_outside_are_not_held_against_the_twin(parity: Path) -> None:
    recipe = recipe_of(parity / "llama" / "config.yaml", {"pass": "merge_lora"})
    recipe = recipe.model_copy(update={"passes": (*recipe.passes, Stranger())})
    shown = Shown()
    done = rehearse(recipe, progress=shown)
    assert done.reports[1] is None
    assert done.notes == ("pass 2 (stranger) cannot predict, so it was not tried",)
    assert shown.lines[1:] == [done.notes[0]]


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


class Forgotten(Pass):
    """A pass whose change neither weights nor configs hold."""

    kind: str = "forgotten"

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        model.speech_encoder.layer_norm.eps = 10.0
        return PassReport(changed=True, summary="another epsilon")

    def predict(self, sketch: Sketch) -> None:
        """Nothing of the sizes changes."""


def test_a_twin_that_saving_changes_is_refused_in_the_words_of_the_run(parity: Path) -> None:
    recipe = recipe_of(parity / "llama" / "config.yaml", {"pass": "merge_lora"})
    recipe = recipe.model_copy(update={"passes": (*recipe.passes, Forgotten())})
    with pytest.raises(AudioLMError, match=r"the reloaded model is not the one that was saved: .* apart"):
        rehearse(recipe)


def test_short_clips_are_enough_for_a_connector_of_low_rank(parity: Path, examples: list[Example]) -> None:
    """Un-padded, six clips of 2 to 3 s give 42 audio tokens; the twin's connector is 64 wide."""
    recipe = recipe_of(
        parity / "llama" / "config.yaml",
        {"pass": "unpad_audio", "bucket_seconds": 1.0},
        {"pass": "low_rank", "parts": ["connector"], "budget": 0.5},
    )
    done = rehearse(recipe, examples)
    assert done.reports[1] is not None
    assert done.reports[1].changed


def test_clips_are_enough_for_fourteen_heads(small_model: Callable[..., Salmonn], tmp_path: Path) -> None:
    """Heads of 16, as narrower ones make no round number: an LLM that reads 224 wide."""
    model = small_model("llama")
    config = model.causal_lm.config
    config.num_attention_heads = 14
    model.llm = AutoModelForCausalLM.from_config(config)
    folder = store.save(model, tmp_path / "model")
    recipe = recipe_of(folder, {"pass": "unpad_audio"}, {"pass": "gptq", "group_size": 32})
    assert needed_positions(recipe, narrow_twin(outline_model(folder).model)) == {"llm": 448}
    report = rehearse(recipe).reports[1]
    assert report is not None
    assert not [note for note in report.notes if "calibration positions" in note]


@pytest.mark.parametrize(("part", "count"), [("connector", 60), ("connector", 700), ("llm", 5000)])
def test_clips_are_stretched_or_repeated_until_they_are_enough(parity: Path, part: str, count: int) -> None:
    outline = outline_model(parity / "llama" / "config.yaml").model
    outline.bucket_seconds = 1.0
    assert enough_clips({}, [outline]) == (1, 1)
    stretch, rounds = enough_clips({part: count}, [outline])
    clips = rehearsal_clips(outline, (), 0, stretch, rounds)
    assert max(len(clip.waveform) for clip in clips) <= 30 * SAMPLE_RATE
    found = [Clip.of(outline, len(clip.waveform) / SAMPLE_RATE) for clip in clips]
    assert sum(clip.audio_tokens if part == "connector" else clip.prompt for clip in found) >= count


def test_an_llm_that_cannot_be_narrowed_is_not_tried_and_that_is_said(
    small_model: Callable[..., Salmonn], tmp_path: Path
) -> None:
    """OPT calls its intermediate size otherwise."""
    model = small_model("llama")
    config = OPTConfig(
        vocab_size=model.causal_lm.config.vocab_size,
        hidden_size=64,
        word_embed_proj_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        max_position_embeddings=1024,
    )
    model.llm = AutoModelForCausalLM.from_config(config)
    recipe = recipe_of(store.save(model, tmp_path / "model"), {"pass": "cast", "parts": ["connector"]})
    shown = Shown()
    done = rehearse(recipe, progress=shown)
    assert done.twin is None
    assert done.reports == (None,)
    (note,) = done.notes
    assert "OPTForCausalLM" in note
    assert "no 'intermediate_size'" in note
    assert note.endswith("but not tried")
    assert shown.lines[-1] == note


def test_rehearsing_greedy_asks_the_loss_twice(
    small_model: Callable[..., Salmonn], examples: list[Example]
) -> None:
    """However many layers there are: before, and without one of them."""
    model = small_model("llama")
    depth, calls = len(model.layers("speech_encoder")), []
    model.layers("speech_encoder")[0].register_forward_hook(lambda *_: calls.append(1))
    entry = LayerDrop(part="speech_encoder", method="greedy", keep=1)
    report = entry.rehearsed(model).apply(model, Context(examples, torch.Generator(), lambda: model))
    assert len(calls) == 2
    assert report.figures["layers_after"] == depth - 1


def test_the_twin_of_a_packed_folder_can_be_rehearsed_on(
    small_model: Callable[..., Salmonn], parity: Path, examples: list[Example], tmp_path: Path
) -> None:
    """Indices of outliers stay inside the narrow layers, and group scales are multiples that exist."""
    packing = recipe_of(
        parity / "gemma" / "config.yaml",
        {"pass": "merge_lora"},
        {"pass": "cast"},
        {"pass": "quantize_encoder"},
        {"pass": "gptq", "group_size": 32, "progressive": True},
        {"pass": "quantize_embedding"},
    )
    model = small_model("gemma")
    apply_passes(model, packing, examples, Silent())
    folder = store.save(model, tmp_path / "packed")
    twin = narrow_twin(outline_model(folder).model)
    state = twin.state_dict()
    outliers = {name: tensor for name, tensor in state.items() if name.endswith(".outliers")}
    multiples = [tensor for name, tensor in state.items() if name.endswith(".multiples")]
    assert outliers
    assert multiples
    for name, numbers in outliers.items():
        inputs = twin.get_submodule(name.removesuffix(".outliers")).in_features
        assert sorted({*numbers.tolist()} & {*range(inputs)}) == numbers.tolist()
    assert all(tensor.min() >= 1 and tensor.max() <= 15 for tensor in multiples)
    done = rehearse(recipe_of(folder, {"pass": "unpad_audio"}, {"pass": "cache_prompt"}), examples)
    assert all(report is not None and report.changed for report in done.reports)
