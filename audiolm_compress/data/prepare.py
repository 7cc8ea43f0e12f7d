"""What a corpus offers, into an annotation; what it lacks, into a list.

Nothing is left out in silence: each clip that the corpus names becomes an entry, or a line of the CSV file
beside the annotation. Entries are written as they come, so that the length of an index is no matter of
memory. Clips that must be cut out of recordings are made as in a conversion, and kept if it is cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from audiolm_compress.data.annotation import entry_problems
from audiolm_compress.data.annotation_writer import (
    AnnotationWriter,
    LeftOut,
    left_out_beside,
    written_annotation,
)
from audiolm_compress.data.clip_file import Cut, Form, Job, Outcome, make_clips
from audiolm_compress.data.convert import NoSteps, Steps, kind_of
from audiolm_compress.data.corpora.clip import Clip, Missing, Piece
from audiolm_compress.data.records import PARTIAL, Records, opened_records
from audiolm_compress.data.repeats import digest
from audiolm_compress.data.workers import in_processes
from audiolm_compress.errors import DataError


@dataclass(frozen=True)
class Prepared:
    """What a preparation gave.

    Attributes:
        annotation: the file written.
        entries: in it.
        made: clips that were cut or copied.
        kept: of these, those that were there from an earlier call.
        clipped: clips made now with samples beyond full scale, which were set to it.
        left_out: how many things the corpus names that gave no entry.
        reasons: one line for each reason why.
        prefix: folder that the paths are relative to, where it is not the annotation's own.
    """

    annotation: Path
    entries: int
    made: int
    kept: int
    clipped: int
    left_out: int
    reasons: list[str]
    prefix: Path | None


def prepare(
    offer: Iterable[Clip | Missing],
    annotation: str | Path,
    folder: str | Path,
    *,
    form: Form = Form(),  # noqa: B008  # frozen
    workers: int = 1,
    steps: Steps = NoSteps(),  # noqa: B008  # has no state
) -> Prepared:
    """Write an annotation of what a corpus offers.

    Args:
        offer: clips and what is missing, such as ``librispeech.offer(folder)``.
        annotation: JSON file to write.
        folder: where the audio is, or where clips are written that have none of their own.
        form: of clips that are written.
        workers: processes that write clips; 1 is this one.
        steps: shows how far it is.

    Raises:
        DataError: nothing is left to write, or a file cannot be written. Clips so far are kept.
    """
    folder, place = Path(folder), Path(folder).resolve()
    target = Path(annotation).parent.resolve() / Path(annotation).name
    base = target.parent if place.is_relative_to(target.parent) else place
    with left_out_beside(target) as left_out, written_annotation(target) as writer:
        steps.start(f"preparing {target.name}", 1)

        def relative(file: Path) -> str:
            return (place / file.relative_to(folder)).relative_to(base).as_posix()

        entries = _Entries(writer, left_out, relative, steps)
        clips = _to_be_made(offer, entries)
        first = next(clips, None)
        if first is not None:
            with opened_records(folder) as records:
                _make(chain([first], clips), folder, form, workers, entries, records)
        if not writer.entries:
            lines = "\n".join(f"  {line}" for line in left_out.lines())
            raise DataError(f"{folder}: nothing in it can be used:\n{lines}")
        steps.advance()
        return Prepared(
            target,
            writer.entries,
            entries.made,
            entries.kept,
            entries.clipped,
            left_out.total,
            left_out.lines(),
            None if base == target.parent else base,
        )


class _Entries:
    """Writes what there is and notes what is not."""

    def __init__(
        self, writer: AnnotationWriter, left_out: LeftOut, relative: Callable[[Path], str], steps: Steps
    ) -> None:
        self._writer, self._left_out, self._relative, self._steps = writer, left_out, relative, steps
        self._identities: set[int] = set()
        self.made = self.kept = self.clipped = 0

    def missing(self, name: str, reason: str, kind: str = "") -> None:
        self._left_out.add(name, reason, kind)

    def add(self, clip: Clip, file: Path) -> None:
        path = self._relative(file)
        item: dict[str, Any] = {"path": path, "text": clip.texts[0]}
        if len(clip.texts) > 1:
            item["texts"] = list(clip.texts)
        item |= {"task": clip.task, **clip.extras}
        problems = entry_problems(item)
        if "testset_id" in item and not problems:
            identity = digest(str(item["testset_id"]))
            if identity in self._identities:
                problems.append("its testset_id is already used")
            self._identities.add(identity)
        if problems:
            self.missing(path, "; ".join(problems), kind_of(problems[0]))
            return
        self._writer.add(item)
        self._steps.figure("entries", self._writer.entries)

    def count(self, outcome: Outcome) -> None:
        self.made += 1
        self.kept += outcome.kept
        self.clipped += outcome.clipped > 0


def _to_be_made(offer: Iterable[Clip | Missing], entries: _Entries) -> Iterator[Clip]:
    """Clips without a file; all others are written or noted on the way."""
    for one in offer:
        if isinstance(one, Missing):
            entries.missing(one.name, one.reason)
        elif one.piece is not None:
            yield one
        elif isinstance(one.file, Path) and one.file.is_file():
            entries.add(one, one.file)
        else:
            entries.missing(str(one.file), "missing")


def _make(
    clips: Iterable[Clip], folder: Path, form: Form, workers: int, entries: _Entries, records: Records
) -> None:
    """Make the files of clips, recording by recording, and write their entries in the same order."""
    waiting: deque[list[Clip]] = deque()
    used: set[int] = set()  # folders, of which each recording has its own, as names would be too many

    def jobs() -> Iterator[Job]:
        for source, group in groupby(clips, key=lambda clip: clip.file):
            mine: dict[str, Cut] = {}
            waiting.append(list(group))
            places = set()
            for clip in waiting[-1]:
                name, piece = _name(clip, form), clip.piece or Piece("")
                place = digest(name.rpartition("/")[0] or name)
                if name not in mine and place not in used and _is_file_name(name):
                    mine[name] = Cut(name, piece.start, piece.end, records.get(name))
                    places.add(place)
            used.update(places)
            yield Job(source, tuple(mine.values()))

    for _, outcomes in in_processes(partial(make_clips, folder=folder, form=form), jobs(), workers):
        made = {outcome.name: outcome for outcome in outcomes}
        for outcome in outcomes:
            if not outcome.reason:
                entries.count(outcome)
            if not outcome.reason and not outcome.kept:
                records.add(outcome.name, outcome.record)
        for clip in waiting.popleft():
            name = _name(clip, form)
            if name not in made:
                entries.missing(name, "its name is taken, or none for a file")
            elif made[name].reason:
                entries.missing(name, made[name].reason, kind_of(made[name].reason))
            else:
                entries.add(clip, folder / name)


def _is_file_name(name: str) -> bool:
    return name.isprintable() and not name.startswith(f"{PARTIAL}/")


def _name(clip: Clip, form: Form) -> str:
    return f"{clip.piece.name if clip.piece else ''}.{form.format}"
