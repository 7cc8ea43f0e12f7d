"""Killed runs: three kills amid passes here, twenty anywhere in a file that ``kills.py`` has written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .kills import PASSES, STAGES

ROOT = Path(__file__).parents[2]


def killed(file: Path, kills: int) -> dict[str, Any]:
    """In a program of its own: processes with threads, as that of the tests, must not fork."""
    program = [sys.executable, "-m", "tests.resumption.kills", "--kills", str(kills), "--out", str(file)]
    subprocess.run(
        program, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True
    )
    return dict(json.loads(file.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_killed_passes_end_as_undisturbed_ones(tmp_path: Path) -> None:
    found = killed(tmp_path / "kills.json", 0)
    # A kill may come a stage late, where the machine is busy with something else.
    meant = zip(found["killed_at"], PASSES[1:], strict=True)
    assert all(STAGES.index(stage) >= STAGES.index(least) for stage, least in meant)
    assert len(found["taken"]) == 3
    assert found["computed_again"] == []
    assert found["different"] == []
    # The main process decides: by its clock whether to keep, by its disk what was kept. What the other one
    # cannot read, it does not take either, and the next time both begin without it.
    first, second = found["decided"]
    assert first == second
    *decided, error, after = first
    assert decided == [0, 2, True, 2]
    assert "elsewhere" in error and "the same command begins without it" in error
    assert after == 0


@pytest.mark.campaign
def test_runs_that_are_killed_anywhere_end_as_undisturbed_ones(tmp_path: Path) -> None:
    found = killed(tmp_path / "kills.json", 20)
    assert (found["kills"], found["computed_again"], found["different"]) == (20, [], [])


def test_the_campaign_in_the_repository_lost_nothing() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "kills.json").read_text(encoding="utf-8"))
    assert found["kills"] == sum(found["killed_at"].values()) >= 20
    assert sum(count > 0 for count in found["killed_at"].values()) >= 6
    assert found["taken"] > 0
    assert (found["computed_again"], found["different"]) == ([], [])
