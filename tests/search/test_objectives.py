"""What a search compares trials by is read from their reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from audiolm_compress import recipe_sections
from audiolm_compress.errors import AudioLMError
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report import Report
from audiolm_compress.search.objectives import OBJECTIVES, require_measured, values


def test_figures_that_the_baseline_lacks_are_no_objectives(measured: Callable[..., Measurements]) -> None:
    require_measured(measured(), ["weights", "wer", "aac"])
    with pytest.raises(AudioLMError, match=r"no aac, spider; leave that out: --objectives weights$"):
        require_measured(measured(cider=()), ["weights", "aac", "spider"])


def test_objectives_are_ratios_of_sizes_and_the_candidates_scores(
    measured: Callable[..., Measurements],
) -> None:
    smaller = measured(weight_bytes=2**20, tpot=0.008, errors=(4, 0, 0, 4), cider=(1.0, 1.0, 1.0))
    report = Report.of(measured(), smaller, environment={})
    found = values(report, ["weights", "tpot", "ttft", "wer", "aac"])
    assert found == pytest.approx([0.25, 0.8, 1.0, 0.2, 1.0])


def test_every_score_can_be_a_goal_and_an_objective(measured: Callable[..., Measurements]) -> None:
    assert tuple(OBJECTIVES) == get_args(recipe_sections.Objective)
    decreases = {f"{name}_decrease" for name in SCORES} - {"wer_decrease"}
    goals = recipe_sections.Goals(wer_increase=0.2, **dict.fromkeys(decreases, 0.2))
    report = Report.of(measured(), measured(errors=(1, 2, 3, 2)), environment={}, goals=goals)
    reached = {goal.name: goal.reached for goal in report.goals if goal.reached is not None}
    assert reached == {"wer_increase": pytest.approx(0.1), "cider_d_decrease": 0.0}
    assert len(report.goals) == len(SCORES)
