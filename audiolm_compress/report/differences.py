"""Candidate against baseline, clip by clip: which differences are more than chance."""

from __future__ import annotations

from audiolm_compress.errors import DataError
from audiolm_compress.measurement.measurements import ClipScore, Measurements
from audiolm_compress.metrics.bootstrap import PairedResult, paired_bootstrap
from audiolm_compress.metrics.scores import SCORES

HOW_NOISE_IS_JUDGED = (
    "within noise: 0 lies in the 95 % interval of the difference, by paired bootstrap over the test clips "
    "(every resample draws the same clips for both models)"
)


def differences(baseline: Measurements, candidate: Measurements) -> dict[str, PairedResult]:
    """Paired comparison of each score that both models have, by its name in ``SCORES``.

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
        )
    return found


def _clip_scores(side: Measurements, name: str) -> dict[str, ClipScore]:
    return {clip.testset_id: clip.scores[name] for clip in side.clips if name in clip.scores}
