"""Candidate against baseline, clip by clip: which differences are more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from audiolm_compress.errors import DataError
from audiolm_compress.measurement.clip_result import ClipResult, ClipScore, Score
from audiolm_compress.metrics.bootstrap import PairedResult, paired_bootstrap
from audiolm_compress.metrics.scores import SCORES

CERTAIN = 0.01  # level at which a difference is called without reserve

HOW_NOISE_IS_JUDGED = (
    "intervals hold the true figure in 95 % of test sets of this size, by studentised bootstrap over the "
    "test clips; those of differences are paired (every resample draws the same clips for both models)"
)
HOW_VERDICTS_ARE_REACHED = (
    "p: how often two equally good models would differ by as much or more, by a two-sided randomisation test "
    "over the test clips; within noise: p is above 0.05 or 0 lies in the interval; better or worse: neither, "
    "and p is at most 0.01; perhaps: p lies between, as it does for one in 25 pairs of equal models"
)

Verdict = Literal["within noise", "perhaps better", "perhaps worse", "better", "worse"]


class Scored(Protocol):
    """Scored answers of one model: its measurements, or a file of answers."""

    @property
    def source(self) -> str:
        """Whose answers they are."""

    @property
    def clips(self) -> Sequence[ClipResult]:
        """Every answer with its scores."""

    @property
    def scores(self) -> Mapping[str, Score]:
        """Figures over all clips."""


def verdict(score: str, found: PairedResult) -> Verdict:
    """What a difference says of the candidate.

    Args:
        score: its name in ``SCORES``.
        found: the paired comparison.
    """
    if found.within_noise:
        return "within noise"
    if (found.difference < 0) == SCORES[score].lower_is_better:
        return "better" if found.p_value <= CERTAIN else "perhaps better"
    return "worse" if found.p_value <= CERTAIN else "perhaps worse"


def differences(baseline: Scored, candidate: Scored, *, seed: int = 0) -> dict[str, PairedResult]:
    """Paired comparison of each score that both models have, by its name in ``SCORES``.

    Args:
        baseline: scored answers of the first model.
        candidate: of the second.
        seed: of the bootstrap and of the randomisation test.

    Raises:
        DataError: the two were not measured on the same clips, or not scored against the same references.
    """
    if [clip.testset_id for clip in baseline.clips] != [clip.testset_id for clip in candidate.clips]:
        raise DataError(f"{baseline.source} and {candidate.source} were not measured on the same clips")
    found = {}
    for name, kind in SCORES.items():
        if name not in baseline.scores or name not in candidate.scores:
            continue
        before, after = _clip_scores(baseline, name), _clip_scores(candidate, name)
        weights = {clip: score.weight for clip, score in before.items()}
        if weights != {clip: score.weight for clip, score in after.items()}:
            raise DataError(
                f"{kind.title} of {baseline.source} and {candidate.source} was not scored against the same "
                "references; measure both anew with the same data"
            )
        found[name] = paired_bootstrap(
            [score.amount for score in before.values()],
            [score.amount for score in after.values()],
            list(weights.values()),
            seed=seed,
        )
    return found


def _clip_scores(side: Scored, name: str) -> dict[str, ClipScore]:
    return {clip.testset_id: clip.scores[name] for clip in side.clips if name in clip.scores}
