"""One clip's scores in words, and how much worse another model is on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audiolm_compress.measurement.measurements import ClipResult, ClipScore, Edits
from audiolm_compress.metrics.scores import SCORES


def in_words(clip: ClipResult) -> str:
    """The word errors or the scores of one answer."""
    told = [_errors(clip.edits)] if clip.edits is not None else []
    told += [
        f"{SCORES[name].title} {value(score):.2f}"
        for name, score in clip.scores.items()
        if name != "wer" or clip.edits is None
    ]
    return ", ".join(told) or "not scored"


def value(score: ClipScore) -> float:
    """The figure of one clip alone; of a clip without reference words its errors."""
    alone = score.value
    return score.amount if alone is None else alone


def worsening(before: Sequence[ClipResult], after: Sequence[ClipResult]) -> list[float]:
    """By how much each clip got worse, comparable between kinds of tasks.

    Args:
        before: clips of the first model.
        after: the same clips of the other one, in the same order.

    Returns:
        For each clip the change of the first score that both have, its sign turned so that more is worse,
        divided by the largest change of that score on any clip. 0 where no score changed or there is none.
    """
    changes = [_change(old.scores, new.scores) for old, new in zip(before, after, strict=True)]
    largest: dict[str, float] = {}
    for name, change in changes:
        largest[name] = max(largest.get(name, 0.0), abs(change))
    return [change / largest[name] if largest[name] else 0.0 for name, change in changes]


def _change(before: Mapping[str, ClipScore], after: Mapping[str, ClipScore]) -> tuple[str, float]:
    for name, kind in SCORES.items():
        if name in before and name in after:
            change = value(after[name]) - value(before[name])
            return name, change if kind.lower_is_better else -change
    return "", 0.0


def _errors(edits: Edits) -> str:
    if not edits.words:
        return f"{edits.errors} words too many"
    return (
        f"{edits.errors} errors in {edits.words} words" if edits.errors else f"all {edits.words} words right"
    )
