"""Figures of clips that have something in common: of one task, of one data set, of like length.

One figure over all clips hides that a model has become worse on long clips alone, or on one of its data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from audiolm_compress.measurement.clip_result import ClipResult, Group, Score
from audiolm_compress.metrics.bootstrap import interval
from audiolm_compress.metrics.scores import SCORES

_FEWEST = 2  # of one clip there is no interval
_MOST = 50  # of one kind
_WHY = f"as they hold fewer than {_FEWEST} clips or are not among the {_MOST} with the most"


def figures(clips: Sequence[ClipResult], seed: int) -> dict[str, Score]:
    """Every score that clips have, over all that have it, with its 95 % bootstrap interval.

    A score of clips whose weights are all 0, such as WER where nothing is said, is left out.

    Args:
        clips: with the scores of each.
        seed: of the bootstrap.
    """
    found = {}
    for name in SCORES:
        scores = [clip.scores[name] for clip in clips if name in clip.scores]
        amounts, weights = [score.amount for score in scores], [score.weight for score in scores]
        if sum(weights) > 0:
            bounds = interval(amounts, weights, seed=seed)
            found[name] = Score(sum(amounts) / sum(weights), bounds.low, bounds.high, len(scores))
    return found


def grouped(
    clips: Sequence[ClipResult], edges: Sequence[float], seed: int
) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """Figures by task, by source and by length.

    Where all clips are of one task, source or length there is nothing to part, and no group.

    Args:
        clips: with the scores of each.
        edges: seconds that part the lengths, ascending; a clip of just that length is below the edge.
        seed: of the bootstrap.

    Returns:
        The groups, and notes on what is in none: groups of fewer than two clips and, of one kind, those
        beyond the fifty with the most clips are left out.
    """
    lengths = _lengths(edges)
    known = [clip for clip in clips if clip.seconds > 0]  # files of answers need not tell
    by_length = _parted(known, lambda clip: next(length for length in lengths if length.holds(clip)))
    by_length = {length.name: by_length[length.name] for length in lengths if length.name in by_length}
    parts = {
        "task": _parted(clips, lambda clip: Group("task", clip.task, 0, {})),
        "source": _parted(clips, lambda clip: Group("source", clip.source, 0, {})),
        "length": by_length,
    }
    groups: list[Group] = []
    notes = []
    if 0 < len(known) < len(clips):
        notes.append(f"groups by length: {len(clips) - len(known)} clips of unknown length are in none")
    for by, parted in parts.items():
        if len(parted) < 2:
            continue
        most = set(sorted(parted, key=lambda name: -len(parted[name][1]))[:_MOST])
        kept = [
            (group, members)
            for name, (group, members) in parted.items()
            if name in most and len(members) >= _FEWEST
        ]
        groups += [
            replace(group, clips=len(members), scores=figures(members, seed)) for group, members in kept
        ]
        if left_out := len(parted) - len(kept):
            notes.append(f"groups by {by}: {left_out} of {len(parted)} left out, {_WHY}")
    return tuple(groups), tuple(notes)


def _parted(
    clips: Sequence[ClipResult], group: Callable[[ClipResult], Group]
) -> dict[str, tuple[Group, list[ClipResult]]]:
    """Name of a group -> the group and its clips."""
    parted: dict[str, tuple[Group, list[ClipResult]]] = {}
    for clip in clips:
        found = group(clip)
        parted.setdefault(found.name, (found, []))[1].append(clip)
    return parted


def _lengths(edges: Sequence[float]) -> list[Group]:
    names = [f"up to {edges[0]:g} s"]
    names += [f"{low:g} to {high:g} s" for low, high in pairwise(edges)]
    names += [f"over {edges[-1]:g} s"]
    bounds = zip((0.0, *edges), (*edges, None), strict=True)
    return [Group("length", name, 0, {}, seconds=pair) for name, pair in zip(names, bounds, strict=True)]
