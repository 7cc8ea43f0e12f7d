"""Candidate against baseline, clip by clip: which differences are more than chance."""

from __future__ import annotations

from audiolm_compress.errors import DataError
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.bootstrap import PairedResult, paired_bootstrap, paired_wer
from audiolm_compress.metrics.wer import ClipErrors

HOW_NOISE_IS_JUDGED = (
    "within noise: 0 lies in the 95 % interval of the difference, by paired bootstrap over the test clips "
    "(every resample draws the same clips for both models)"
)


def differences(baseline: Measurements, candidate: Measurements) -> dict[str, PairedResult]:
    """Paired comparison of each score that both models have: ``wer``, ``cider_d``, ``spider``.

    Raises:
        DataError: the two were not measured on the same clips.
    """
    if [clip.testset_id for clip in baseline.clips] != [clip.testset_id for clip in candidate.clips]:
        raise DataError(f"{baseline.source} and {candidate.source} were not measured on the same clips")
    found = {}
    if baseline.wer is not None and candidate.wer is not None:
        found["wer"] = paired_wer(_word_errors(baseline), _word_errors(candidate))
    for score in ("cider_d", "spider"):
        if getattr(baseline, score) is not None and getattr(candidate, score) is not None:
            found[score] = paired_bootstrap(_scores(baseline, score), _scores(candidate, score))
    return found


def _word_errors(side: Measurements) -> list[ClipErrors]:
    return [
        ClipErrors(clip.errors, clip.words)
        for clip in side.clips
        if clip.errors is not None and clip.words is not None
    ]


def _scores(side: Measurements, score: str) -> list[float]:
    values: list[float | None] = [getattr(clip, score) for clip in side.clips]
    return [value for value in values if value is not None]
