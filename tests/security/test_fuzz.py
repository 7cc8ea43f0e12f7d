"""Some hundred damaged inputs for each entry point, the same in every run; ``fuzz.py`` runs more."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from .fuzz import ROOT, Counts, campaign, fuzz, targets
from .guided import decoded, encoded

SEARCHES = [*(ROOT / "recipes").glob("search_*.yaml")]
_INPUTS = {"annotation": 400, "audio": 500, "recipe": 200, "config": 30}


@pytest.mark.filterwarnings("ignore")  # of transformers and numpy, about odd values that they accept
@pytest.mark.parametrize("name", _INPUTS)
def test_only_our_errors_come_out(name: str, tmp_path: Path) -> None:
    counts = Counts()
    fuzz(targets(tmp_path)[name], tmp_path, counts, _INPUTS[name], seed=0)
    assert counts.of.total() >= _INPUTS[name]
    assert counts.of["refused"] > 0


@pytest.mark.filterwarnings("ignore")
def test_a_campaign_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    for inputs in (25, 50):
        campaign(out, inputs, seed=0)
    targets_found = json.loads(out.read_text())["targets"]
    assert {name: found["read"] + found["refused"] for name, found in targets_found.items()} == {
        "annotation": 20,
        "audio": 20,
        "recipe": 9,
        "config": 1,
    }


def test_guided_fuzzing_begins_with_valid_inputs(tmp_path: Path) -> None:
    for name, target in targets(tmp_path).items():
        counts = Counts()
        for data, clean in zip(encoded(target), target.clean, strict=True):
            assert decoded(target, data) == clean
            counts.survive(target, tmp_path, clean)
        assert counts.of["refused"] == (name == "recipe" and len(SEARCHES)), "searches leave choices open"
        target_input = decoded(target, b"")  # libFuzzer's first
        assert type(target_input) is type(target.clean[0])


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore")
def test_a_campaign_of_other_inputs_finds_nothing(tmp_path: Path) -> None:
    """With a seed of the day: each run tries others than the one in the repository."""
    campaign(tmp_path / "fuzz.json", 100_000, seed=date.today().toordinal())
    result = json.loads((tmp_path / "fuzz.json").read_text())
    assert result["inputs"] >= 100_000
    assert [name for name, found in result["targets"].items() if found["other"]] == []


def test_the_campaign_in_the_repository_found_nothing() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text())
    assert [name for name, found in result["targets"].items() if found["other"]] == []
    assert result["inputs"] == sum(found["read"] + found["refused"] for found in result["targets"].values())
