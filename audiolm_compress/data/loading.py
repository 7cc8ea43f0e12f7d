"""Annotation files in, examples out; every audio file is checked before any work begins."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from audiolm_compress.data.annotation import EXPANSION, Entry, read_annotation
from audiolm_compress.data.audio import Audio, Channel, try_audio
from audiolm_compress.data.example import Example
from audiolm_compress.errors import DataError

OnBadAudio = Literal["stop", "skip"]


@dataclass(frozen=True)
class Examples:
    """Loaded examples and what happened on the way, for the report.

    Attributes:
        examples: in the order of the annotation.
        bad: (path, reason) of each entry left out because of its audio file.
        padded: how many clips were shorter than 1 s and padded.
        truncated: how many clips were longer than 30 s and cut.
    """

    examples: list[Example]
    bad: list[tuple[str, str]]
    padded: int
    truncated: int

    def counts(self) -> dict[str, int]:
        """The numbers a report shows: clips, per task (``clips_asr``), padded, truncated, skipped."""
        tasks = [example.task for example in self.examples]
        return {
            "clips": len(self.examples),
            **{f"clips_{task}": tasks.count(task) for task in dict.fromkeys(tasks)},
            "padded": self.padded,
            "truncated": self.truncated,
            "skipped": len(self.bad),
        }


def load_examples(
    annotation: str | Path | Sequence[str | Path],
    *,
    prefix: str | Path | None = None,
    channel: Channel = "first",
    on_bad_audio: OnBadAudio = "stop",
    limit: int | None = None,
    tasks: Collection[str] | None = None,
    require_ids: bool = False,
    require_texts: bool = True,
) -> Examples:
    """Read the annotation and decode all of its audio, in parallel and in order.

    Args:
        annotation: one annotation file, or several whose entries are joined.
        prefix: folder of the audio paths; None means each annotation file's own folder.
        channel: see :func:`audiolm_compress.data.audio.load_audio`.
        on_bad_audio: ``stop`` raises with the list of all bad files; ``skip`` leaves them out and lists them.
        limit: at most this many entries, taken in turn from each task so that no task is left out.
        tasks: keep only entries of these task names.
        require_ids: every entry needs a ``testset_id``.
        require_texts: every entry needs a reference text.

    Raises:
        DataError: the annotation is unusable, nothing is left of it, or audio files are bad.
    """
    files = [annotation] if isinstance(annotation, (str, Path)) else list(annotation)
    entries = [
        entry
        for file in files
        for entry in read_annotation(
            file, prefix=prefix, require_ids=require_ids, require_texts=require_texts
        )
    ]
    _refuse_repeated_ids(entries, files)
    _refuse_expansions(entries)
    name = ", ".join(str(file) for file in files)
    if tasks is not None:
        found = sorted({entry.task for entry in entries})
        entries = [entry for entry in entries if entry.task in tasks]
        if not entries:
            raise DataError(f"{name}: asked for tasks {sorted(tasks)}, found only {found}")
    if limit is not None:
        entries = [entries[index] for index in sorted(in_turn(entries, limit))]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda entry: _audio(entry, channel), entries))
    bad = [(str(entry.file), reason) for entry, (reason, _) in zip(entries, results, strict=True) if reason]
    loaded = [(entry, audio) for entry, (_, audio) in zip(entries, results, strict=True) if audio is not None]
    if bad and (on_bad_audio == "stop" or not loaded):
        raise DataError(_list_bad(name, bad, len(entries), on_bad_audio))
    return Examples(
        examples=[_example(entry, audio) for entry, audio in loaded],
        bad=bad,
        padded=sum(audio.padded for _, audio in loaded),
        truncated=sum(audio.truncated for _, audio in loaded),
    )


def batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Groups of at most ``size`` examples, each of one task, as the prompt of a batch is common to it."""
    for task in dict.fromkeys(example.task for example in examples):
        group = [example for example in examples if example.task == task]
        for start in range(0, len(group), size):
            yield group[start : start + size]


def in_turn(items: Sequence[Example | Entry], count: int) -> list[int]:
    """Indices of at most ``count`` items, one of each task in turn, so that no task is left out."""
    by_task: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        by_task.setdefault(item.task, []).append(index)
    turns = chain.from_iterable(zip_longest(*by_task.values()))
    return [index for index in turns if index is not None][:count]


def _audio(entry: Entry, channel: Channel) -> tuple[str, Audio | None]:
    outside = entry.outside()
    return (outside, None) if outside else try_audio(entry.file, channel)


def _example(entry: Entry, audio: Audio) -> Example:
    return Example(
        id=entry.id,
        waveform=audio.waveform,
        task=entry.task,
        text=entry.text,
        references=entry.texts,
        question=entry.Q,
        path=entry.file,
        source=str(entry.extras.get("source", "")),
    )


def _refuse_repeated_ids(entries: list[Entry], files: Sequence[str | Path]) -> None:
    """Within one file the reader has looked; the same id in two files would mix up two clips' texts."""
    uses = Counter(entry.testset_id for entry in entries if entry.testset_id is not None)
    repeated = sorted(identity for identity, count in uses.items() if count > 1)
    if repeated:
        shown = ", ".join(repeated)
        raise DataError(
            f"{', '.join(map(str, files))}: testset_id used in more than one file: {shown}; rename them"
        )


def _refuse_expansions(entries: list[Entry]) -> None:
    """Their texts tell of all files together, of which only the first would be heard."""
    found = [entry.path for entry in entries if entry.extras.get(EXPANSION)]
    if found:
        raise DataError(
            f"{len(found)} entries have further files ({EXPANSION}), the first is {found[0]}; these are not "
            "read: join each entry's files into one"
        )


def _list_bad(name: str, bad: list[tuple[str, str]], total: int, on_bad_audio: OnBadAudio) -> str:
    lines = "\n".join(f"  {path}: {reason}" for path, reason in bad)
    todo = (
        "Repair or remove them, or set on_bad_audio: skip to leave them out."
        if on_bad_audio == "stop" and len(bad) < total
        else "No usable clip is left; repair the files or name another annotation."
    )
    return f"{name}: {len(bad)} of {total} audio files cannot be used:\n{lines}\n{todo}"
