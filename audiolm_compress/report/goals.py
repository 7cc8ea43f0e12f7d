"""Whether a candidate reached what its recipe asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.recipe_sections import Goals

_RATIOS = {
    "weight_ratio": "weight_bytes",
    "peak_memory_ratio": "peak_memory_bytes",
    "ttft_ratio": "ttft_s",
    "tpot_ratio": "tpot_s",
}
_BUDGETS = {"weights_gib": "weight_bytes", "peak_memory_gib": "peak_memory_bytes"}
_GIB = 2**30
_SCORES = {
    f"{name}_{'increase' if kind.lower_is_better else 'decrease'}": name for name, kind in SCORES.items()
}


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        name: as in the recipe.
        limit: what was asked for: a number, or ``noise``.
        reached: what was measured; None if it was not measured.
        met: whether that is enough; a goal that was not measured is not met.
        note: which score was taken, how ``noise`` was judged, or why there is no measurement.
    """

    name: str
    limit: float | str
    reached: float | None
    met: bool
    note: str = ""


def judge(
    goals: Goals, baseline: Measurements, candidate: Measurements, differences: Mapping[str, PairedResult]
) -> list[Goal]:
    """Every goal that the recipe sets.

    Args:
        goals: of the recipe.
        baseline: measurements of the model before.
        candidate: of the model after.
        differences: score -> paired comparison, where both models have the score.
    """
    judged = []
    for name, limit in goals.model_dump(exclude_none=True).items():
        if name in _RATIOS:
            judged.append(_judge_ratio(name, limit, baseline, candidate))
        elif name in _BUDGETS:
            reached = getattr(candidate, _BUDGETS[name]) / _GIB
            judged.append(Goal(name, limit, reached, reached <= limit))
        elif name == "aac_decrease":
            judged.append(_judge_captions(limit, differences))
        else:
            judged.append(_judge_score(name, limit, differences, _SCORES[name]))
    return judged


def _judge_ratio(name: str, limit: float, baseline: Measurements, candidate: Measurements) -> Goal:
    before, after = getattr(baseline, _RATIOS[name]), getattr(candidate, _RATIOS[name])
    if not before or after is None:
        return Goal(name, limit, None, False, "not measured")
    return Goal(name, limit, after / before, after / before <= limit)


def _judge_captions(limit: float | str, differences: Mapping[str, PairedResult]) -> Goal:
    """By the task's own metric if both models have it, else by the half of it that needs no SPICE."""
    score = "spider" if "spider" in differences else "cider_d"
    found = _judge_score("aac_decrease", limit, differences, score)
    if found.reached is None:
        return found
    return replace(found, note=f"{SCORES[score].title}; {found.note}".rstrip("; "))


def _judge_score(name: str, limit: float | str, differences: Mapping[str, PairedResult], score: str) -> Goal:
    found = differences.get(score)
    if found is None:
        return Goal(name, limit, None, False, "not measured on both models")
    worse = found.difference if SCORES[score].lower_is_better else -found.difference
    interval = found.difference_interval
    if isinstance(limit, str):
        note = f"95 % interval {interval.low:+.4f} to {interval.high:+.4f}, {found.clips} clips"
        return Goal(name, limit, worse, worse <= 0 or found.within_noise, note)
    return Goal(name, limit, worse, worse <= limit)
