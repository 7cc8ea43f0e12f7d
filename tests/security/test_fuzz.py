"""Some hundred damaged inputs for each entry point, the same in every run; ``fuzz.py`` runs more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .fuzz import ROOT, Counts, fuzz, targets

_INPUTS = {"annotation": 400, "audio": 500, "recipe": 200, "config": 60}


@pytest.mark.filterwarnings("ignore")  # of transformers and numpy, about odd values that they accept
@pytest.mark.parametrize("name", _INPUTS)
def test_only_our_errors_come_out(name: str, tmp_path: Path) -> None:
    counts = Counts()
    fuzz(targets(tmp_path)[name], tmp_path, counts, _INPUTS[name], seed=0)
    assert counts.of.total() >= _INPUTS[name]
    assert counts.of["refused"] > 0


def test_the_campaign_in_the_repository_found_nothing() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text())
    assert [name for name, found in result["targets"].items() if found["other"]] == []
    assert result["inputs"] == sum(found["read"] + found["refused"] for found in result["targets"].values())
