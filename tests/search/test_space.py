"""What a recipe with choices describes, and what is refused before the first trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiolm_compress.errors import RecipeError
from audiolm_compress.passes import Gptq, MergeLora
from audiolm_compress.search.space import Space

TEXT = """\
seed: 5
passes:
  - {pass: merge_lora}
  - pass: gptq
    bits: {choose: [3, 4, 8]}
    progressive: {choose: [false, true]}
    when: {choose: [true, false]}
goals: {weight_ratio: 0.5}
search: {objectives: [weights, wer], trials: 6}
"""


def read(folder: Path, text: str, *overrides: str) -> Space:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return Space.read(file, overrides, None)


def test_every_configuration_is_a_recipe_or_says_why_not(tmp_path: Path) -> None:
    space = read(tmp_path, TEXT)
    assert space.size == 12
    assert space.recipe((0, 0, 0)).passes == (MergeLora(), Gptq(bits=3))
    assert space.recipe((1, 1, 0)).passes == (MergeLora(), Gptq(bits=4, progressive=True))
    assert space.picked((1, 0, 1)) == {
        "passes.1.bits": 4,
        "passes.1.progressive": False,
        "passes.1.when": False,
    }
    with pytest.raises(RecipeError, match=r"line 4, passes\.1: progressive scales need"):
        space.recipe((2, 1, 0))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[3, 4, 8]", "[3, 5]"), "passes.1.bits: found 5; expected 2, 3, 4, 8 or 'auto'"),
        (("[3, 4, 8]", "[5, 4]"), "passes.1.bits: found 5"),
        (("[true, false]}\ngoals", "[true, maybe]}\ngoals"), "passes.1.when: found 'maybe'"),
        (("[weights, wer]", "[weight]"), "search.objectives.0: found 'weight'; expected 'weights', "),
        (
            ("[weights, wer]", "[wer, weights, wer]"),
            "search.objectives: names an objective twice: wer, weights",
        ),
        (("choose: [3", "chose: [3"), "passes.1.bits: unknown key 'chose'; did you mean 'choose'?"),
    ],
)
def test_an_option_that_is_wrong_by_itself_is_refused_at_once(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, TEXT.replace(*change))
    assert expected in str(caught.value)
    assert "line " in str(caught.value)


def test_wrong_options_of_all_choices_come_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("[3, 4, 8]", "[3, 5, 6]").replace("[true, false]}\ngoals", "[true, maybe]}\ngoals")
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("recipe.yaml: 3 errors")
    assert [line.split(": found ")[1].split(";")[0] for line in lines[1:]] == ["5", "6", "'maybe'"]


def test_options_may_be_lists(tmp_path: Path) -> None:
    text = "passes: [{pass: gptq, parts: {choose: [[llm], [llm, connector]]}}]"
    space = read(tmp_path, text)
    assert space.recipe((1,)).passes == (Gptq(parts=("llm", "connector")),)


def test_nothing_to_search(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nothing is left open"):
        read(tmp_path, "passes: [{pass: merge_lora}]")


def test_untried_configurations_are_found_to_the_last(tmp_path: Path) -> None:
    space = read(tmp_path, TEXT)
    tried: set[tuple[int, ...]] = set()
    while len(tried) < space.size:
        found = space.untried(tried, seed=len(tried))
        assert found not in tried
        tried.add(found)
    assert max(tried) == (2, 1, 1)


def test_goals_and_numbers_of_trials_do_not_make_another_study(tmp_path: Path) -> None:
    space = read(tmp_path, TEXT)
    assert read(tmp_path, TEXT, "goals.weight_ratio=0.4", "search.trials=9").entries() == space.entries()
    for change in ("seed=6", "search.objectives=[wer]", "passes.1.bits=3"):
        assert read(tmp_path, TEXT, change).entries() != space.entries()
