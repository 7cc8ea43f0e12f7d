"""A recipe is read completely or refused completely: every error at once, each with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import Field

from audiolm_compress.errors import RecipeError
from audiolm_compress.passes import Gptq, MergeLora
from audiolm_compress.passes.base import Pass
from audiolm_compress.recipe import Recipe, load_recipe, read_entries
from audiolm_compress.recipe_choices import find_choices

RECIPES = Path(__file__).parents[1] / "recipes"


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def message(source: Any, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, overrides)
    return str(caught.value)


def usual(file: Path) -> Recipe:
    """A recipe as it is, or one with choices where each is decided by its first option."""
    choices, _ = find_choices(read_entries(file))
    return load_recipe(file, [f"{choice.name}={json.dumps(choice.options[0])}" for choice in choices])


@pytest.mark.parametrize("file", sorted(RECIPES.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_is_read_and_survives_writing(file: Path) -> None:
    recipe = usual(file)
    assert recipe.name == file.stem
    assert load_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


def test_every_recipe_is_known() -> None:
    """A recipe that is added or lost shows here; its header then has to say what it is for."""
    files = sorted(RECIPES.rglob("*.yaml"))
    assert [file.stem for file in files] == [
        "encoder_only",
        "encoders_16bit",
        "gemma2_4bit",
        "gemma2_smallest",
        "latency_first",
        "llama3_4bit",
        "search_gemma2",
    ]
    for file in files:
        text = file.read_text(encoding="utf-8")
        command = "search" if find_choices(read_entries(file))[0] else "run"
        assert f"audiolm-compress {command} recipes/{file.name}" in text
        for head in ("# For whom: ", "# Expect: ", "# Command: "):
            assert head in text, f"{file.name}: its header has no line {head!r}"


def test_the_search_begins_where_the_main_recipe_is() -> None:
    assert usual(RECIPES / "search_gemma2.yaml").passes == load_recipe(RECIPES / "gemma2_4bit.yaml").passes


def test_all_errors_of_a_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
baselin: tiny
data:
  test: [tiny, nowhere.json]
passes:
  - pass: merge_lore
  - {pass: gptq, bits: 5, gruop_size: 32}
goals: {weight_ratio: small}
"""
    file = write(tmp_path, text)
    lines = message(file).splitlines()
    assert lines[0] == f"{file}: 6 errors"
    found = {line.split(":")[0].strip(): line for line in lines[1:]}
    assert found.keys() == {
        "line 1, baselin",
        "line 3, data.test.1",
        "line 5, passes.0.pass",
        "line 6, passes.1.bits",
        "line 6, passes.1.gruop_size",
        "line 7, goals.weight_ratio",
    }
    assert "did you mean 'baseline'?" in found["line 1, baselin"]
    assert str(tmp_path / "nowhere.json") in found["line 3, data.test.1"]
    assert "did you mean 'merge_lora'?" in found["line 5, passes.0.pass"]
    assert "quantize_embedding" in found["line 5, passes.0.pass"]
    assert "found 5; expected 2, 3, 4, 8 or 'auto'" in found["line 6, passes.1.bits"]
    assert "did you mean 'group_size'?" in found["line 6, passes.1.gruop_size"]
    assert "found 'small'; expected a number" in found["line 7, goals.weight_ratio"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("passes: []", "passes: is empty; give at least 1"),
        ("seed: 1", "passes: is missing"),
        ("passes:", "passes: found None; expected a list"),
        ("passes: gptq", "passes: found 'gptq'; expected a list"),
        ("passes: [{bits: 4}]", "passes.0.pass: the entry names no pass (passes: merge_lora,"),
        ("passes: [{pass: merge_lora}]\nseed: 1.5", "seed: found 1.5; expected a whole number"),
        ("passes: [{pass: merge_lora}]\ngoals: none", "goals: found 'none'; expected a mapping"),
        ("passes: [{pass: merge_lora}]\ngoals: {wer_increase: .nan}", "goals.wer_increase: found nan"),
        ("passes: [{pass: merge_lora}]\nbaseline: gone.yaml", "baseline: no such file or folder: "),
        ("passes: [{pass: cast}]\ndata: {training: gone.json}", "line 2, data.training: no such file: "),
        ("passes: [{pass: merge_lora}]\nbaseline: ~nobody_/x", "baseline: no such file or folder: "),
        (f"passes: [{{pass: merge_lora}}]\nbaseline: {300 * 'a'}", "File name too long"),
        (f"passes: [{{pass: cast}}]\ndata: {{test: {300 * 'a'}}}", "data.test: cannot look up 'aaa"),
        (
            "passes: [{pass: cast}]\ndata: {training_clips: 9}",
            "line 2, data.training_clips: limits the clips of `training`, which is unset; set it, or",
        ),
        (
            "passes: [{pass: merge_lora}]\npasses: [{pass: cast}]",
            "line 2, passes: given twice, first in line 1",
        ),
        ("passes: [{pass: gptq, bits: 4, bits: 3}]", "passes.0.bits: given twice, first in line 1"),
        ("passes: [", "not YAML: line 1, column "),
        ("name: 2026-13-45\npasses: [{pass: merge_lora}]", "not YAML: month must be in 1..12"),
        ("passes: " + 5000 * "[", "not YAML: "),
        ("- pass: gptq", "a recipe is a mapping with the key `passes`, found list"),
        ("", "a recipe is a mapping with the key `passes`, found NoneType"),
        ("!!python/object/apply:os.getcwd []", "not YAML: line 1, column 1"),
    ],
)
def test_one_clear_message(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(write(tmp_path, text))


def test_a_goal_may_be_a_number_or_noise(tmp_path: Path) -> None:
    text = "passes: [{pass: merge_lora}]\ngoals: {wer_increase: little}"
    assert "goals.wer_increase: found 'little'; expected a number or 'noise'" in message(
        write(tmp_path, text)
    )


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    assert (
        message(tmp_path / "gone.yaml")
        == f"{tmp_path / 'gone.yaml'}: cannot read the recipe: No such file or directory"
    )


def test_relative_paths_start_at_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clips.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model").mkdir()
    text = "baseline: model\ndata: {test: clips.json}\npasses: [{pass: merge_lora}]"
    file = write(tmp_path, text)
    monkeypatch.chdir(tmp_path.parent)
    recipe = load_recipe(file)
    assert recipe.data.test == (str(tmp_path / "clips.json"),)
    assert recipe.baseline == str(tmp_path / "model")


def test_relative_paths_of_overrides_start_where_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    file = write(tmp_path / "recipes", "data: {calibration: own.json}\npasses: [{pass: merge_lora}]")
    for name in ("train.json", "test.json", "recipes/own.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "tiny-valid").mkdir()
    monkeypatch.chdir(tmp_path)
    changes = ["data.test=[test.json, tiny-valid]", "data.training=train.json", "name=recipes"]
    recipe = load_recipe(file, changes)
    assert recipe.data.test == (str(tmp_path / "test.json"), "tiny-valid")
    assert recipe.data.training == str(tmp_path / "train.json")
    assert recipe.data.calibration == str(tmp_path / "recipes" / "own.json")
    assert recipe.name == "recipes"


def test_a_path_that_recipe_and_override_name_alike_must_be_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    ours = tmp_path / "recipes" / "own.json"
    ours.write_text("{}", encoding="utf-8")
    file = write(tmp_path / "recipes", "data: {calibration: own.json}\npasses: [{pass: merge_lora}]")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(file, ["data.test=own.json"])
    assert recipe.data.test == (recipe.data.calibration,) == (str(ours),), "no other file is there"
    (tmp_path / "own.json").write_text("{}", encoding="utf-8")
    assert f"own.json is {ours} in the recipe and {tmp_path / 'own.json'} behind --set" in message(
        file, "data.test=own.json"
    )
    assert load_recipe(file, [f"data.test={tmp_path / 'own.json'}"]).data.test == (
        str(tmp_path / "own.json"),
    )


def test_what_is_no_path_may_be_a_hub_id() -> None:
    assert (
        load_recipe({"baseline": "owner/name", "passes": [{"pass": "merge_lora"}]}).baseline == "owner/name"
    )


def test_overrides_change_and_add_entries() -> None:
    recipe = load_recipe(
        {"passes": [{"pass": "merge_lora"}, {"pass": "gptq"}]},
        ["passes.1.bits=3", "goals.weight_ratio=0.4", "data.calibration_clips=16", "seed=7"],
    )
    assert recipe.passes[1] == Gptq(bits=3)
    assert (recipe.goals.weight_ratio, recipe.data.calibration_clips, recipe.seed) == (0.4, 16, 7)
    assert load_recipe(recipe, ["seed=8"]).model_copy(update={"seed": 7}) == recipe


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("passes.1.bits", "expected KEY.PATH=VALUE"),
        ("passes.4.bits=3", "`passes` is a list with entries 0 to 1; found 4"),
        ("passes.gptq.bits=3", "`passes` is a list with entries 0 to 1; found 'gptq'"),
        ("passes.1.bit=3", "--set passes.1.bit=3, passes.1.bit: unknown key; did you mean 'bits'?"),
        ("passes.1.bits=5", "--set passes.1.bits=5, passes.1.bits: found 5; expected"),
        ("gaols.weight_ratio=1", "gaols: unknown key; did you mean 'goals'?"),
        ("baseline.x=1", "`baseline` is the value 'tiny' and has no entry 'x'"),
        ("0=1", "the recipe has named entries"),
        ("seed=[", "'[' is not a YAML value"),
        ("name=2026-13-45", "'2026-13-45' is not a YAML value"),
        ("goals.weight_ratio=.inf", "goals.weight_ratio: found inf; input should be a finite number"),
    ],
)
def test_a_wrong_override_is_named(override: str, expected: str) -> None:
    source = {"baseline": "tiny", "passes": [{"pass": "merge_lora"}, {"pass": "gptq"}]}
    assert expected in message(source, override)


def test_what_replaces_a_section_is_the_place_of_its_errors(tmp_path: Path) -> None:
    file = write(tmp_path, "passes:\n  - {pass: gptq, bits: 4}\ngoals: {weight_ratio: -1}")
    lines = message(file, "passes=[{pass: gptq, bits: 5}]").splitlines()
    assert lines[1].startswith("  --set passes=[{pass: gptq, bits: 5}], passes.0.bits: found 5; expected")
    assert lines[2].startswith("  line 3, goals.weight_ratio: found -1; ")


class Louder(Pass):
    """A third party's pass."""

    kind: Literal["louder"] = Field("louder", alias="pass")
    decibels: float = 3.0


def test_a_foreign_pass_is_checked_like_ours() -> None:
    entries = {"passes": [{"pass": "louder", "decibels": 6}, {"pass": "merge_lora"}]}
    recipe = load_recipe(entries, extra_passes=(Louder,))
    assert isinstance(recipe, Recipe)
    assert recipe.passes == (Louder(decibels=6), MergeLora())
    assert load_recipe(recipe, ["passes.0.decibels=1"]).passes == (Louder(decibels=1), MergeLora())
    assert yaml.safe_load(recipe.to_yaml())["passes"][0] == {"pass": "louder", "decibels": 6.0}
    with pytest.raises(RecipeError, match="unknown pass 'louder'"):
        load_recipe(entries)
    with pytest.raises(RecipeError, match="did you mean 'decibels'"):
        load_recipe({"passes": [{"pass": "louder", "decibel": 6}]}, extra_passes=(Louder,))


def test_a_recipe_that_holds_itself_is_refused(tmp_path: Path) -> None:
    text = "passes: [{pass: merge_lora}]\ndata: &data {test: tiny, prefix: *data}"
    assert "an alias that holds itself" in message(write(tmp_path, text))
