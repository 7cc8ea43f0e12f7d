"""Values that a recipe leaves open: read with the same care as the others, and never guessed by a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audiolm_compress.errors import RecipeError
from audiolm_compress.passes import Gptq, MergeLora
from audiolm_compress.recipe import checked_recipe, load_recipe, read_entries
from audiolm_compress.recipe_choices import decided, find_choices

TEXT = """\
data: {calibration_clips: {choose: [64, 128]}}
passes:
  - pass: merge_lora
  - pass: gptq
    bits: {choose: [3, 4]}
    when: {choose: [true, false]}
  - {pass: layer_drop, part: speech_encoder, keep: {choose: {from: 16, to: 24, step: 4}}}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def message(file: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, overrides)
    return str(caught.value)


def test_choices_are_found_in_the_order_of_writing(tmp_path: Path) -> None:
    entries = read_entries(write(tmp_path, TEXT))
    choices, complaints = find_choices(entries)
    assert complaints == []
    assert {choice.name: choice.options for choice in choices} == {
        "data.calibration_clips": (64, 128),
        "passes.1.bits": (3, 4),
        "passes.1.when": (True, False),
        "passes.2.keep": (16, 20, 24),
    }
    picked = dict(zip(choices, (128, 4, True, 20), strict=True))
    recipe = checked_recipe(decided(entries, picked))
    assert recipe.passes[:2] == (MergeLora(), Gptq(bits=4))
    assert recipe.data.calibration_clips == 128
    without = checked_recipe(decided(entries, picked | {choices[2]: False}))
    assert [entry.kind for entry in without.passes] == ["merge_lora", "layer_drop"]
    assert find_choices(entries)[0] == choices, "deciding leaves the recipe as it was"


def test_a_run_needs_decisions(tmp_path: Path) -> None:
    """Every open value and every other mistake at once, each with its line and the way out."""
    text = TEXT.replace("merge_lora", "merge_lore")
    lines = message(write(tmp_path, text)).splitlines()
    assert lines[0].endswith("recipe.yaml: 5 errors")
    found = {line.split(":")[0].strip(): line for line in lines[1:]}
    assert found.keys() == {
        "line 1, data.calibration_clips",
        "line 3, passes.0.pass",
        "line 5, passes.1.bits",
        "line 6, passes.1.when",
        "line 7, passes.2.keep",
    }
    assert found["line 5, passes.1.bits"].endswith(
        "is left open (3, 4); `audiolm-compress search` explores it, --set passes.1.bits=3 decides it"
    )


def test_set_decides(tmp_path: Path) -> None:
    changes = ["data.calibration_clips=64", "passes.1.bits=4", "passes.1.when=false", "passes.2.keep=20"]
    recipe = load_recipe(write(tmp_path, TEXT), changes)
    assert [entry.kind for entry in recipe.passes] == ["merge_lora", "layer_drop"]


def test_what_is_switched_off_is_still_checked(tmp_path: Path) -> None:
    text = "passes: [{pass: merge_lora}, {pass: gptq, bit: 4, when: false}]"
    assert "line 1, passes.1.bit: unknown key; did you mean 'bits'?" in message(write(tmp_path, text))
    assert "every pass is switched off" in message(
        write(tmp_path, "passes: [{pass: merge_lora, when: false}]")
    )


def test_lists_and_nothing_can_be_chosen(tmp_path: Path) -> None:
    text = """\
passes:
  - pass: distill
    parts: {choose: [[connector], [connector, llm]]}
    minutes: {choose: [null, 2]}
"""
    entries = read_entries(write(tmp_path, text))
    choices, _ = find_choices(entries)
    (entry,) = checked_recipe(decided(entries, dict(zip(choices, (["llm"], 2), strict=True)))).passes
    assert (entry.parts, entry.minutes) == (("llm",), 2)
    found = message(tmp_path / "recipe.yaml")
    assert """--set 'passes.0.parts=["connector"]' decides it""" in found
    assert "--set passes.0.minutes=null decides it" in found


def test_aliases_are_entries_of_their_own(tmp_path: Path) -> None:
    """What is decided, switched or overridden at one place stays as it is at the others."""
    file = write(tmp_path, "passes: [&gptq {pass: gptq, bits: {choose: [3, 4]}, when: false}, *gptq]")
    entries = read_entries(file, ["passes.1.when=true"])
    first, second = find_choices(entries)[0]
    (kept,) = checked_recipe(decided(entries, {first: 3, second: 4})).passes
    assert kept == Gptq(bits=4)


GPTQ = "passes:\n  - pass: gptq\n    bits: "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GPTQ + "{chose: [3, 4]}", "line 3, passes.0.bits: unknown key 'chose'; did you mean 'choose'?"),
        (GPTQ + "{choose: 3}", "line 3, passes.0.bits: found 3; expected a list of values, or from, to and"),
        (GPTQ + "{choose: []}", "found []; expected a list"),
        (GPTQ + "{choose: [3, 4], note: x}", "`choose` stands alone in the place of a value; found note too"),
        (GPTQ + "{choose: [3, 3]}", "names a value twice: [3, 3]"),
        (GPTQ + "{choose: [{choose: [3]}]}", "a choice stands in a choice"),
        (
            GPTQ + "{choose: {form: 2, to: 4, step: 1}}",
            "unknown key 'form'; did you mean 'from'? (keys:",
        ),
        (GPTQ + "{choose: {from: 2, to: 4}}", "step is missing; a range needs from, to and step"),
        (GPTQ + "{choose: {from: 2, to: x, step: 1}}", "found 'x'; from, to and step are numbers"),
        (GPTQ + "{choose: {from: 4, to: 2, step: 1}}", "from 4 to 2 in steps of 1 leads nowhere"),
        ("seed: {choose: [1, 2]}\npasses: [{pass: cast}]", "line 1, seed: cannot be a choice, as trials are"),
        ("passes: [{pass: cast, when: perhaps}]", "passes.0.when: found 'perhaps'; expected true or false"),
        (GPTQ + "4\n    wehn: false", "passes.0.wehn: unknown key"),
    ],
)
def test_wrong_choices_are_one_error_with_a_line(tmp_path: Path, text: str, expected: str) -> None:
    found = message(write(tmp_path, text))
    assert expected in found
    assert "recipe.yaml: 1 error\n" in found


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("{from: 0.1, to: 0.7, step: 0.2}", (0.1, 0.3, 0.5, 0.7)),
        ("{from: 1, to: 6, step: 2}", (1, 3, 5)),
        ("{from: 0, to: 1, step: 0.5}", (0, 0.5, 1.0)),
    ],
)
def test_ranges_include_their_ends_where_steps_meet_them(
    tmp_path: Path, text: str, numbers: tuple[Any, ...]
) -> None:
    source = read_entries(write(tmp_path, f"passes: [{{pass: low_rank, budget: {{choose: {text}}}}}]"))
    ((choice,), complaints) = find_choices(source)
    assert (choice.options, complaints) == (numbers, [])
