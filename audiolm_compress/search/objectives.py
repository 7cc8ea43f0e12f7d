"""What trials are compared by: figures of a report, as numbers that are to become small or large.

Sizes and times are ratios to the baseline measured on the same machine, so that trials of different machines
can stand beside each other; scores are those of the candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audiolm_compress.errors import AudioLMError
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.scores import SCORES, ScoreKind
from audiolm_compress.report import Report


@dataclass(frozen=True)
class Objective:
    """One objective.

    Attributes:
        title: with its unit.
        maximize: whether more is better.
        figure: of a model; None if it was not measured.
        relative: whether candidate / baseline is compared.
    """

    title: str
    maximize: bool
    figure: Callable[[Measurements], float | None]
    relative: bool


def captions(side: Measurements) -> float | None:
    """SPIDEr, or CIDEr-D where SPICE is not installed; on one machine it is the same for all models."""
    return side.cider_d if side.spider is None else side.spider


def _score(kind: ScoreKind) -> Objective:
    return Objective(kind.title, not kind.lower_is_better, lambda side: side.score(kind.name), False)


OBJECTIVES: dict[str, Objective] = {
    "weights": Objective("weights x", False, lambda side: side.weight_bytes, True),
    "peak_memory": Objective("peak memory x", False, lambda side: side.peak_memory_bytes, True),
    "ttft": Objective("TTFT x", False, lambda side: side.ttft_s, True),
    "tpot": Objective("TPOT x", False, lambda side: side.tpot_s, True),
    "aac": Objective("captions", True, captions, False),
    **{name: _score(kind) for name, kind in SCORES.items()},
}


def require_measured(baseline: Measurements, names: Sequence[str]) -> None:
    """Refuse objectives that the baseline has no figure for, before any trial.

    Raises:
        AudioLMError: names them and those that are left.
    """
    absent = [name for name in names if OBJECTIVES[name].figure(baseline) is None]
    if absent:
        left = [name for name in names if name not in absent]
        raise AudioLMError(
            f"search: the test clips give the baseline no {', '.join(absent)}; "
            f"leave that out: --objectives {','.join(left) or 'weights'}"
        )


def values(report: Report, names: Sequence[str]) -> list[float]:
    """The objectives of a trial.

    Raises:
        AudioLMError: one was not measured on the candidate, such as TPOT if no answer had a second token.
    """
    found = []
    for name in names:
        objective = OBJECTIVES[name]
        before, after = objective.figure(report.baseline), objective.figure(report.candidate)
        if after is None or (objective.relative and not before):
            raise AudioLMError(f"the objective {name} was not measured on the candidate")
        found.append(after / before if objective.relative and before else float(after))
    return found
