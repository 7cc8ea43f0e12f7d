"""What a file of answers is worth, from the annotation of its test set alone: no model, no audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiolm_compress.data.annotation import Entry
from audiolm_compress.data.tasks import TaskKind
from audiolm_compress.measurement.answer_check import check_answers
from audiolm_compress.measurement.clip_result import ClipResult, Group, Score
from audiolm_compress.measurement.scoring import score
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.metrics.wer import Edits


@dataclass(frozen=True)
class FileScores:
    """Scores of a file of answers.

    Attributes:
        source: the file.
        kinds: the kinds of task that it answers.
        clips: every answer with its scores, in the order of the annotation.
        scores: figures with their intervals, by the names of ``metrics.scores.SCORES``.
        unscored: why a score is missing.
        edits: of the recognition clips; None without such clips.
        groups: figures by task, source and length.
        group_notes: what is in no group.
        notes: what else a reader must know.
    """

    source: str
    kinds: tuple[TaskKind, ...]
    clips: tuple[ClipResult, ...]
    scores: Mapping[str, Score]
    unscored: Mapping[str, str]
    edits: Edits | None
    groups: tuple[Group, ...]
    group_notes: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; figures first."""
        content = asdict(self)
        return {"source": content.pop("source"), "scores": content.pop("scores")} | content


def score_file(
    path: str | Path,
    references: Sequence[Entry],
    kind: TaskKind | None = None,
    *,
    settings: BenchmarkSettings | None = None,
    seed: int = 0,
) -> FileScores:
    """Join a file of answers with its test set by ``testset_id`` and score it.

    Args:
        path: CSV with the columns ``testset_id,text``.
        references: of the test set.
        kind: of the clips that must be answered; None: of those that are.
        settings: how captions are compared, and models for scores that need one.
        seed: of the bootstrap intervals.

    Raises:
        DataError: the file has problems that must be corrected first (all are listed), or the references
            cannot be scored against.
    """
    settings = settings or BenchmarkSettings()
    checked = check_answers(path, references, kind)
    clips = [
        ClipResult(
            testset_id=entry.id,
            task=entry.task,
            text=text,
            references=entry.texts,
            path=str(entry.file),
            seconds=_seconds(entry),
            source=str(entry.extras.get("source", "")),
        )
        for entry, text in zip(checked.entries, checked.texts(), strict=True)
    ]
    scores = score(clips, seed, settings)
    notes = []
    if checked.others:
        asked = ", ".join(checked.kinds)
        notes.append(f"{checked.others} clips of other tasks than {asked} are left out")
    if checked.problems:
        notes.append(
            f"{len(checked.problems)} problems of the file do not keep it from being scored; "
            "audiolm-compress validate lists them"
        )
    if settings.raw_captions and "aac" in checked.kinds:
        notes.append("captions are compared as they are written")
    return FileScores(
        source=str(path),
        kinds=checked.kinds,
        clips=scores.clips,
        scores=scores.scores,
        unscored=scores.unscored,
        edits=scores.edits,
        groups=scores.groups,
        group_notes=scores.notes,
        notes=tuple(notes),
    )


def _seconds(entry: Entry) -> float:
    """As the annotation says, as no audio is read; 0, which is in no group by length, if it does not."""
    duration = entry.extras.get("duration")
    return float(duration) if isinstance(duration, int | float) and duration > 0 else 0.0
