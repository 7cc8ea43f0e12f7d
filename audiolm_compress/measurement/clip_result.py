"""What a model said about a clip and what that is worth; figures of a test set and of groups of clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from audiolm_compress.data.tasks import TaskKind, task_kind
from audiolm_compress.metrics.bootstrap import Interval
from audiolm_compress.metrics.wer import Edits


@dataclass(frozen=True)
class ClipScore:
    """What one clip adds to a figure, which is sum(amounts) / sum(weights) over clips.

    Attributes:
        amount: word errors, or a score.
        weight: reference words, or 1.
    """

    amount: float
    weight: float

    @property
    def value(self) -> float | None:
        """The figure of this clip alone; None if nothing can be right or wrong about it."""
        return self.amount / self.weight if self.weight else None


@dataclass(frozen=True)
class ClipResult:
    """What the model said about one clip, and what that is worth.

    Attributes:
        testset_id: id of the annotation, else its path.
        task: task name of the annotation.
        text: the answer.
        references: the texts that count as right.
        path: the audio file.
        seconds: length of the audio as used; 0 if it is not known.
        source: name of the data set, the annotation's ``source``; "" without.
        edits: of the words (recognition only).
        scores: by the names of ``metrics.scores.SCORES``. CIDEr-D and SPIDEr are those within this test set.
    """

    testset_id: str
    task: str
    text: str
    references: tuple[str, ...]
    path: str
    seconds: float
    source: str = ""
    edits: Edits | None = None
    scores: Mapping[str, ClipScore] = field(default_factory=dict)

    @property
    def kind(self) -> TaskKind:
        """How the clip is scored."""
        return task_kind(self.task)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ClipResult:
        """Read the JSON form, that of ``asdict``."""
        read = {
            "references": tuple(content["references"]),
            "edits": read_edits(content["edits"]),
            "scores": {name: ClipScore(**score) for name, score in content["scores"].items()},
        }
        return cls(**{**content, **read})


@dataclass(frozen=True)
class Score:
    """A figure over clips.

    Attributes:
        value: the figure.
        low: where its 95 % bootstrap interval begins.
        high: where that ends.
        clips: how many have the score.
    """

    value: float
    low: float
    high: float
    clips: int


@dataclass(frozen=True)
class Group:
    """Clips that have something in common.

    Attributes:
        by: what that is.
        name: the task, the data set ("" of clips without), or the lengths in words.
        clips: how many there are, scored or not.
        scores: as those of ``Measurements``.
        seconds: of groups by length: above the first, up to the second, which is None where there is no end.
    """

    by: Literal["task", "source", "length"]
    name: str
    clips: int
    scores: Mapping[str, Score]
    seconds: tuple[float, float | None] | None = None

    def holds(self, clip: ClipResult) -> bool:
        """Whether a clip belongs to the group."""
        if self.seconds is None:
            return self.name == (clip.task if self.by == "task" else clip.source)
        low, high = self.seconds
        return low < clip.seconds and (high is None or clip.seconds <= high)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Group:
        """Read the JSON form, that of ``asdict``."""
        seconds = content["seconds"]
        read = {
            "scores": read_scores(content["scores"]),
            "seconds": None if seconds is None else tuple(seconds),
        }
        return cls(**{**content, **read})


def read_scores(content: Mapping[str, Any]) -> dict[str, Score]:
    """Figures from their JSON form."""
    return {name: _read_score(**score) for name, score in content.items()}


def _read_score(value: float, low: float | None, high: float | None, clips: int) -> Score:
    bounds = Interval.of(low, high)
    return Score(value, bounds.low, bounds.high, clips)


def read_edits(content: Mapping[str, int] | None) -> Edits | None:
    """Edits from their JSON form."""
    return None if content is None else Edits(**content)
