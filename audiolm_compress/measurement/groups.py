"""Figures of clips that have something in common: of one task, of one data set, of like length.

One figure over all clips hides that a model has become worse on long clips alone, or on one of its data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from audiolm_compress.measurement.clip_result import ClipResult, Group, Score
from audiolm_compress.metrics.bootstrap import interval
from audiolm_compress.metrics.scores import SCORES

_FEWEST = 2  # of one clip there is no interval


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
        The groups, and notes on what is in none: groups of fewer than two clips are left out.
    """
    kinds = (
        [Group("task", task, 0, {}) for task in dict.fromkeys(clip.task for clip in clips)],
        [Group("source", source, 0, {}) for source in dict.fromkeys(clip.source for clip in clips)],
        _lengths(edges),
    )
    groups: list[Group] = []
    notes = []
    for kind in kinds:
        parted = [(group, [clip for clip in clips if group.holds(clip)]) for group in kind]
        parted = [(group, members) for group, members in parted if members]
        if len(parted) < 2:
            continue
        kept = [(group, members) for group, members in parted if len(members) >= _FEWEST]
        groups += [replace(g, clips=len(members), scores=figures(members, seed)) for g, members in kept]
        if left_out := len(parted) - len(kept):
            notes.append(
                f"groups by {kind[0].by}: {left_out} of {len(parted)} left out for holding a single clip, "
                "which has no interval"
            )
    return tuple(groups), tuple(notes)


def _lengths(edges: Sequence[float]) -> list[Group]:
    names = [f"up to {edges[0]:g} s"]
    names += [f"{low:g} to {high:g} s" for low, high in pairwise(edges)]
    names += [f"over {edges[-1]:g} s"]
    bounds = zip((0.0, *edges), (*edges, None), strict=True)
    return [Group("length", name, 0, {}, seconds=pair) for name, pair in zip(names, bounds, strict=True)]
