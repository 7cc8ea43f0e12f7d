"""An annotation and its audio files into a folder of clips of one form, with an annotation of its own.

    read and check every entry -> make each audio file once -> write the new annotation

The new annotation is written last, at once, with paths relative to itself. Until then the folder is
unfinished work: the same call again makes what is missing (``records.py`` says how that is known) and what
comes out does not depend on how often it was cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from audiolm_compress.data.annotation import EXPANSION, Entry, entry_problems, make_entry
from audiolm_compress.data.annotation_writer import (
    LeftOut,
    left_out_beside,
    left_out_path,
    written_annotation,
)
from audiolm_compress.data.clip_file import Cut, Form, Job, make_clips
from audiolm_compress.data.records import PARTIAL, opened_records
from audiolm_compress.data.repeats import digest
from audiolm_compress.data.strata import clip_name
from audiolm_compress.data.stream import stream_items
from audiolm_compress.data.workers import in_processes
from audiolm_compress.errors import DataError
from audiolm_compress.untrusted import escapes

_SHOWN = 20


class Steps(Protocol):
    """Where work says how far it is."""

    def start(self, description: str, total: int) -> None:
        """Open a line of ``total`` equal steps."""

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` as done."""

    def figure(self, name: str, value: float) -> None:
        """Show a figure as it is now."""


class NoSteps:
    """Shows nothing."""

    def start(self, description: str, total: int) -> None:
        """Ignore the line."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""

    def figure(self, name: str, value: float) -> None:
        """Ignore the figure."""


@dataclass(frozen=True)
class Converted:
    """What a conversion gave.

    Attributes:
        annotation: the file written.
        entries: in it.
        files: audio files that it names.
        kept: of these, those that were there from an earlier call.
        clipped: files with samples beyond full scale, which were set to it.
        left_out: one line for each reason why entries are missing.
    """

    annotation: Path
    entries: int
    files: int
    kept: int
    clipped: int
    left_out: list[str]


def convert(
    annotation: str | Path,
    out: str | Path,
    *,
    prefix: str | Path | None = None,
    form: Form = Form(),  # noqa: B008  # frozen
    skip_damaged: bool = False,
    workers: int = 1,
    steps: Steps = NoSteps(),  # noqa: B008  # has no state
) -> Converted:
    """Convert all audio files of an annotation.

    Args:
        annotation: JSON file; entries keep all of their keys.
        out: folder of the new files, which get their old relative paths with the form's suffix, and of the
            new annotation, which gets the old one's name.
        prefix: folder that the entries' paths are relative to; None means the annotation's own.
        form: of the new files.
        skip_damaged: leave out entries whose audio file cannot be used, in place of stopping. Either way
            they are listed in a CSV file beside the new annotation.
        workers: processes; 1 is this one.
        steps: shows how far it is.

    Raises:
        DataError: entries or audio files are unusable, or a file cannot be written. Files converted so far
            are kept.
    """
    source, folder = Path(annotation), Path(out)
    origin = source.parent if prefix is None else Path(prefix)
    if folder.resolve() in (origin.resolve(), source.parent.resolve()):
        raise DataError(f"{folder}: holds what is to be converted; name another folder")
    target = folder / source.name
    total = _checked(source, origin, folder, form)
    bad: set[int] = set()
    kept = clipped = 0
    with opened_records(folder) as records, left_out_beside(target) as left_out:
        steps.start("converting", total)

        def jobs() -> Iterator[Job]:
            for entry, name in _files(source, origin, form):
                if outside := entry.outside():
                    steps.advance()
                    left_out.add(str(entry.file), outside, "a symbolic link leads out of the prefix")
                    bad.add(digest(name))
                else:
                    yield Job(entry.file, (Cut(name, known=records.get(name)),))

        for job, (made,) in in_processes(partial(make_clips, folder=folder, form=form), jobs(), workers):
            steps.advance()
            if made.reason:
                left_out.add(str(job.source), made.reason, kind_of(made.reason))
                bad.add(digest(made.name))
                continue
            kept += made.kept
            clipped += made.clipped > 0
            if not made.kept:
                records.add(made.name, made.record)
        if bad and (not skip_damaged or len(bad) == total):
            raise DataError(_stopped(target, left_out, total, skip_damaged))
        with written_annotation(target) as writer:
            for item in stream_items(source):
                names = [_clip(path, form) for path in _paths(item)]
                if not any(digest(name) in bad for name in names):
                    writer.add(_renamed(item, names))
        lines = left_out.lines()
    return Converted(target, writer.entries, total - len(bad), kept, clipped, lines)


def kind_of(reason: str) -> str:
    """A reason without its figures, to count by.

    >>> kind_of("truncated: 5 frames are promised, 3 could be read")
    'truncated'
    """
    return reason.partition(":")[0].partition(" (")[0]


def _checked(annotation: Path, origin: Path, folder: Path, form: Form) -> int:
    """How many files the entries name; all are good, no two would become one, none be written over."""
    problems: list[str] = []
    wrong = 0
    names: dict[int, int] = {}
    here, there = PurePosixPath(folder.resolve()), PurePosixPath(origin.resolve())
    sources = _places(annotation, there) if here.is_relative_to(there) or there.is_relative_to(here) else ()
    for index, item in enumerate(stream_items(annotation)):
        reasons = entry_problems(item, require_texts=False) or _expansion_problems(item)
        for path in () if reasons else _paths(item):
            name = _clip(path, form)
            if name.startswith(f"{PARTIAL}/"):
                reasons.append(f"{path!r} lies in a folder named {PARTIAL}, which is for unfinished files")
            if sources and digest(str(here / name)) in sources:
                reasons.append(
                    f"{path!r} would be written over {str(folder / name)!r}, which is to be converted"
                )
            first = names.setdefault(digest(name), digest(str(PurePosixPath(path))))
            if first != digest(str(PurePosixPath(path))):
                reasons.append(f"{path!r} and another file would both become {name!r}; rename one")
        wrong += bool(reasons)
        problems += [f"  entry {index}: {reason}" for reason in reasons if len(problems) < _SHOWN]
    if problems:
        raise DataError(
            f"{annotation}: {wrong} entries cannot be converted:\n"
            + "\n".join(problems)
            + ("\n  ..." if wrong > _SHOWN else "")
            + "\nCorrect or remove these entries."
        )
    return len(names)


def _places(annotation: Path, origin: PurePosixPath) -> set[int]:
    """Where the files of all entries that are good lie, as digests."""
    return {
        digest(str(origin / path))
        for item in stream_items(annotation)
        if not (entry_problems(item, require_texts=False) or _expansion_problems(item))
        for path in _paths(item)
    }


def _expansion_problems(item: dict[str, Any]) -> list[str]:
    paths = item.get(EXPANSION, [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return [f"{EXPANSION!r} must be a list of paths"]
    return [f"{EXPANSION!r} has {path!r}, which {reason}" for path in paths if (reason := escapes(path))]


def _files(annotation: Path, origin: Path, form: Form) -> Iterator[tuple[Entry, str]]:
    """Every file once, as an entry of its own, with the name of its clip."""
    seen: set[int] = set()
    for item in stream_items(annotation):
        for path in _paths(item):
            name = _clip(path, form)
            if digest(name) not in seen:
                seen.add(digest(name))
                yield make_entry({"path": path}, origin), name


def _paths(item: dict[str, Any]) -> list[str]:
    return [item["path"], *item.get(EXPANSION, [])]


def _clip(path: str, form: Form) -> str:
    return f"{clip_name(path)}.{form.format}"


def _renamed(item: dict[str, Any], names: list[str]) -> dict[str, Any]:
    expansion = {EXPANSION: names[1:]} if EXPANSION in item else {}
    return {**item, "path": names[0], **expansion}


def _stopped(target: Path, left_out: LeftOut, total: int, skip_damaged: bool) -> str:
    todo = (
        "None is left."
        if skip_damaged
        else "Repair them, or leave them out (--skip-damaged); the others are converted and kept."
    )
    lines = "\n".join(f"  {line}" for line in left_out.lines()[:_SHOWN])
    return (
        f"{left_out.total} of {total} audio files cannot be converted (all are listed in "
        f"{left_out_path(target)}):\n{lines}\n{todo}"
    )
