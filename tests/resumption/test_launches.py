"""Killed launches of two processes: what one takes from the disk, all take, and the bits stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from .kills import differences, done_again, write_recipe
from .launches import attempt


@pytest.mark.campaign
def test_killed_launches_end_as_undisturbed_ones(tmp_path: Path) -> None:
    """All of it killed amid a pass, between passes and measurements; then one process of two alone."""
    recipe, log, folders = write_recipe(tmp_path), tmp_path / "log", [tmp_path / "whole", tmp_path / "run"]
    whole, out = (folder / "killed" for folder in folders)
    undisturbed = attempt(recipe, whole, log)[0]
    attempts = []
    for stage, victim in (
        ("gptq", None),
        ("scale_recovery", 1),
        ("quantize_embedding", None),
        ("measuring", 0),
        ("measuring", None),
    ):
        made = attempt(recipe, out, log, (stage, undisturbed.seconds[stage] / 2), victim)
        assert made[0].killed, stage
        assert made[0].taken == made[1].taken
        attempts.append(made[0])
    made = attempt(recipe, out, log)
    assert made[0].taken == made[1].taken == ["passes 1 to 4"]
    attempts.append(made[0])
    assert done_again(attempts) == []
    assert differences(whole, out) == []
    assert [path.name for path in out.parent.iterdir()] == [out.name]
