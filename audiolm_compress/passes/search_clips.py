"""The clips that a search has: which may decide what, and how candidates do on them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from audiolm_compress.data.example import Example
from audiolm_compress.metrics.answers import Metric, score_answers
from audiolm_compress.passes.heard_clips import Answer
from audiolm_compress.passes.race import Outcome

Candidate = TypeVar("Candidate", bound=Hashable)


@dataclass(frozen=True)
class Group:
    """Tasks that are scored alike and are alike now, and their clips.

    Attributes:
        tasks: names; the winner is set for all of them.
        metric: what their answers are scored by.
        clips: of all of them, one an audio file, in a random order.
    """

    tasks: tuple[str, ...]
    metric: Metric
    clips: tuple[Example, ...]

    @property
    def name(self) -> str:
        """For the report."""
        return ", ".join(self.tasks)


@dataclass(frozen=True)
class Split:
    """Indices of a group's clips."""

    race: tuple[int, ...]
    confirm: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def search(self) -> tuple[int, ...]:
        """What may decide."""
        return self.race + self.confirm

    @classmethod
    def of(cls, clips: int, held_out: float) -> Split:
        """The last of at least three clips are held out, two fifths of the others race; no part is empty.

        More confirm than race: the race only has to find something good, confirming has to be sure of it.

        >>> Split.of(8, 0.25)
        Split(race=(0, 1), confirm=(2, 3, 4, 5), held_out=(6, 7))
        """
        kept = clips - min(max(1, round(held_out * clips)), clips - 2)
        racing = max(1, kept * 2 // 5)
        order = tuple(range(clips))
        return cls(order[:racing], order[racing:kept], order[kept:])


def distinct(examples: Sequence[Example]) -> list[Example]:
    """One example an audio file, with the texts of all: a clip must not decide here and be held out there.

    Annotations for training name a file once for each of its captions. An example without a path is one of
    its own.
    """
    found: dict[object, Example] = {}
    for example in examples:
        key = example.path if example.path is not None else id(example)
        first = found.get(key)
        if first is None:
            found[key] = example
        else:
            texts = dict.fromkeys((*texts_of(first), *texts_of(example)))
            found[key] = replace(first, references=tuple(texts))
    return list(found.values())


def texts_of(example: Example) -> tuple[str, ...]:
    """Its references."""
    return example.references or (example.text,)


class Judge(Generic[Candidate]):
    """Outcomes of candidates on clips of a group; nothing is answered twice.

    Args:
        group: the clips.
        split: of the clips. CIDEr-D's rare words are told by the references of the clips that may decide, and
            for the others by all.
        answer: gives a candidate's answers to the clips of some indices.
        prices: what a candidate costs on each of the clips of some indices, in units of the metric.
    """

    def __init__(
        self,
        group: Group,
        split: Split,
        answer: Callable[[Candidate, Sequence[int]], Sequence[Answer]],
        prices: Callable[[Candidate, Sequence[int]], ArrayLike],
    ) -> None:
        self._group, self._split, self._answer, self._prices = group, split, answer, prices
        self._known: dict[tuple[Candidate, int], Answer] = {}

    def answers(self, candidate: Candidate, indices: Sequence[int]) -> list[Answer]:
        """Its answers to the clips of these indices."""
        missing = [index for index in indices if (candidate, index) not in self._known]
        given = self._answer(candidate, missing)
        self._known |= {(candidate, index): answer for index, answer in zip(missing, given, strict=True)}
        return [self._known[candidate, index] for index in indices]

    def __call__(self, candidate: Candidate, indices: Sequence[int]) -> Outcome:
        """How it does on the clips of these indices."""
        references = [texts_of(example) for example in self._group.clips]
        everything = self._split.search
        if not set(indices) <= set(everything):
            everything = tuple(range(len(references)))
        scores = score_answers(
            self._group.metric,
            [answer.text for answer in self.answers(candidate, indices)],
            [references[index] for index in indices],
            [references[index] for index in everything if index not in indices],
        )
        prices = np.broadcast_to(np.asarray(self._prices(candidate, indices), float), len(indices))
        return Outcome(scores.figure, scores.losses, prices)

    def saturated(self, candidate: Candidate) -> bool:
        """Whether it makes no error on any clip that may decide: equally good there proves nothing then."""
        return self._group.metric == "wer" and self(candidate, self._split.search).figure == 0.0
