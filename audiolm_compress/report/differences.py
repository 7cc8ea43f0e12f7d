"""Candidate against baseline, clip by clip: which differences are more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from audiolm_compress.errors import DataError
from audiolm_compress.measurement.clip_result import ClipResult, ClipScore, Group, Score
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.bootstrap import PairedResult, paired_bootstrap
from audiolm_compress.metrics.scores import SCORES

CERTAIN = 0.01  # level at which a difference is called without reserve

HOW_INTERVALS_ARE_MADE = (
    "intervals hold the true figure in 95 % of test sets of this size, by studentised bootstrap over the "
    "test clips; those of differences are paired (every resample draws the same clips for both models)"
)
HOW_NOISE_IS_JUDGED = (
    "p: how often two equally good models would differ by as much or more, by a two-sided randomisation test "
    "over the test clips; within noise: p is above 0.05 or 0 lies in the interval; beyond noise (better, "
    "worse): neither, and p is at most 0.01; perhaps: p lies between, as for one in 25 pairs of equals"
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
        weights = _weights(before)
        if weights != _weights(after):
            raise DataError(
                f"{kind.title} of {baseline.source} and {candidate.source} was not scored against the same "
                "references; measure both anew with the same data"
            )
        found[name] = paired_bootstrap(
            [score.amount for score in before if score is not None],
            [score.amount for score in after if score is not None],
            [weight for weight in weights if weight is not None],
            seed=seed,
        )
    return found


def group_differences(
    baseline: Measurements, candidate: Measurements
) -> list[tuple[Group, Group, dict[str, PairedResult]]]:
    """The same for each group of clips: before, after, paired comparison of its scores.

    Raises:
        DataError: as that of :func:`differences`.
    """
    others = {(group.by, group.name): group for group in candidate.groups}
    return [
        (group, other, differences(_part(baseline, group), _part(candidate, other)))
        for group in baseline.groups
        if (other := others.get((group.by, group.name))) is not None
    ]


def _part(side: Measurements, group: Group) -> Measurements:
    clips = tuple(clip for clip in side.clips if group.holds(clip))
    return replace(side, clips=clips, scores=group.scores)


def _weights(scores: list[ClipScore | None]) -> list[float | None]:
    return [None if score is None else score.weight for score in scores]


def _clip_scores(side: Scored, name: str) -> list[ClipScore | None]:
    return [clip.scores.get(name) for clip in side.clips]
