"""What is in annotations and in the audio files that they name: counts, lengths, and all that looks wrong.

Entries are streamed; digests of path, entry, content, and text with length go to a temporary file of 51 bytes
an entry, in which repeats are looked for in bounded memory. A second reading names the entries that repeat
others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from audiolm_compress.data.annotation import EXPANSION, Entry, entry_problems, make_entry
from audiolm_compress.data.findings import OTHERS, Audit, Finding, Group, Part
from audiolm_compress.data.header import Header, read_header
from audiolm_compress.data.ledger import (
    CONTENT_LEAKS,
    NAME_LEAKS,
    PATH_LEAKS,
    SAME_CONTENT,
    SAME_ENTRY,
    SAME_PATH,
    SAME_TEXT,
    TEXT_LEAKS,
    Ledger,
)
from audiolm_compress.data.repeats import Shared, digest, file_digest
from audiolm_compress.data.strata import clip_name, shown, source_of
from audiolm_compress.data.stream import stream_items
from audiolm_compress.errors import DataError

MAX_PARTS = 255
MAX_GROUPS = 200  # of each annotation; each has two distributions of some 100 KB
_BATCH = 512
_SHARE = 32  # entries that a thread takes at once: handing one over costs more than looking for a file
_TELL_EVERY = 100_000
_NEVER = 1e9  # seconds, 31 years
_SHORT, _LONG = 1.0, 30.0  # what Whisper's window takes without padding by us, and without cutting


def audit(
    annotations: Sequence[str | Path],
    *,
    prefix: str | Path | None = None,
    audio: bool = True,
    content: bool = False,
    listed: int = 10,
    workers: int | None = None,
    found: Callable[[Finding], None] = lambda finding: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Audit:
    """Look through annotation files, whose entries may be of any kind and number.

    Args:
        annotations: JSON files, such as a training and a test set: what they share is a leak.
        prefix: folder that paths are relative to; None means each file's own folder.
        audio: read the header of every audio file. Without it, lengths come from the entries' ``duration``.
        content: read every audio file as a whole, to find equal files under different names.
        listed: findings of each kind that the result holds.
        workers: files read at a time; None means two for each core.
        found: called with every finding, for those who need them all.
        tell: called with a line about progress now and then.

    Raises:
        DataError: a file cannot be read or is no annotation. Bad entries and audio files are findings.
    """
    if not 0 < len(annotations) <= MAX_PARTS:
        raise DataError(f"audit: asked for {len(annotations)} annotations; give 1 to {MAX_PARTS}")
    if content and not audio:
        raise DataError("audit: content is asked for without audio; content is that of the audio files")
    parts = [Part(str(name)) for name in annotations]
    with Ledger() as ledger, ThreadPoolExecutor(workers or 2 * (os.cpu_count() or 1)) as pool:
        reader = _Reader(parts, ledger, prefix, audio, content, listed, found)
        for place, name in enumerate(annotations):
            items = enumerate(stream_items(name))
            while batch := list(islice(items, _BATCH)):
                reader.take(place, batch, pool)
                if parts[place].entries % _TELL_EVERY < len(batch):
                    tell(f"{name}: {parts[place].entries} entries read")
        if sum(part.entries for part in parts) >= _TELL_EVERY:
            tell("looking for repeats")
        reader.compare()
    return reader.audit


@dataclass(frozen=True)
class _Sound:
    """What one audio file told."""

    reason: str = ""
    header: Header | None = None
    content: int = 0


class _Reader:
    """Takes entries one batch after the other and keeps what all of them must be compared by."""

    def __init__(
        self,
        parts: list[Part],
        ledger: Ledger,
        prefix: str | Path | None,
        audio: bool,
        content: bool,
        listed: int,
        found: Callable[[Finding], None],
    ) -> None:
        self.parts = parts
        self.audit = Audit(parts)
        self._prefix, self._audio, self._content = prefix, audio, content
        self._listed, self._found = listed, found
        self._ledger = ledger
        # A file is where it is, however an annotation in its own or in an upper folder writes its path.
        self._roots = [self._folder(part).resolve().parts for part in parts]
        self._apart = len(set(self._roots)) > 1
        self._expanded = 0
        self._groups: dict[tuple[int, tuple[str, str]], int] = {}  # by part and name, their number

    def _folder(self, part: Part) -> Path:
        return Path(part.name).parent if self._prefix is None else Path(self._prefix)

    def take(self, place: int, batch: list[tuple[int, Any]], pool: ThreadPoolExecutor) -> None:
        """Count a batch of one annotation."""
        part = self.parts[place]
        folder = self._folder(part)
        checked = [(index, item, entry_problems(item)) for index, item in batch]
        entries = [None if problems else make_entry(item, folder) for _, item, problems in checked]
        sounds = self._heard(entries, pool) if self._audio else [_Sound()] * len(entries)
        for (index, item, problems), entry, sound in zip(checked, entries, sounds, strict=True):
            part.entries += 1
            if entry is None:
                path = item.get("path", "") if isinstance(item, dict) else ""
                self._add(part, index, path, "unusable entry", "; ".join(problems))
                self._ledger.add(place, 0, 0, 0, 0)
            else:
                seconds, key = self._count(part, index, entry, sound)
                text = " ".join(entry.text.lower().split())
                path = clip_name(entry.path)
                self._ledger.add(
                    place,
                    digest(*self._roots[place], *path.split("/")),
                    digest(path, entry.task, entry.Q, entry.texts),
                    sound.content,
                    0 if seconds is None or not text else digest(text, round(seconds, 2)),
                    digest(path) if self._apart else 0,
                    self._groups.setdefault((place, key), len(self._groups)),
                    seconds or 0.0,
                )
                self._expanded += bool(entry.extras.get(EXPANSION))

    def _heard(self, entries: list[Entry | None], pool: ThreadPoolExecutor) -> list[_Sound]:
        shares = [entries[start : start + _SHARE] for start in range(0, len(entries), _SHARE)]
        heard = pool.map(lambda share: [self._listen(entry) for entry in share], shares)
        return list(chain.from_iterable(heard))

    def _listen(self, entry: Entry | None) -> _Sound:
        if entry is None:
            return _Sound()
        outside = entry.outside()
        if outside:
            return _Sound(outside)
        reason, header = read_header(entry.file)
        if header is None or not self._content:
            return _Sound(reason, header)
        try:
            return _Sound("", header, file_digest(entry.file))
        except OSError as error:
            return _Sound(f"cannot be read ({error.strerror or error})")

    def _count(
        self, part: Part, index: int, entry: Entry, sound: _Sound
    ) -> tuple[float | None, tuple[str, str]]:
        """Count one entry; returns its length in seconds, if it is known, and the name of its group."""
        seconds = _told_seconds(entry) if not self._audio else None
        if sound.header is not None:
            seconds = sound.header.seconds
            part.rates[sound.header.rate] += 1
            part.channels[sound.header.channels] += 1
            if seconds is None:
                self._add(part, index, entry.path, "unknown length", "its header does not tell it")
        elif sound.reason:
            kind, _, detail = sound.reason.partition(": ")
            missing = kind == "missing"
            self._add(
                part,
                index,
                entry.path,
                "missing file" if missing else "unreadable file",
                (detail or kind) if missing else sound.reason,
            )
        key = self._group(part, entry)
        group = part.groups.setdefault(key, Group())
        group.entries += 1
        for text in entry.texts:
            words = len(text.split())
            part.words.add(words)
            group.words.add(words)
        if seconds is not None:
            part.seconds.add(seconds)
            group.seconds.add(seconds)
            if kind := outlier(seconds):
                self._add(part, index, entry.path, kind, f"{seconds:.2f} s")
        return seconds, key

    def _group(self, part: Part, entry: Entry) -> tuple[str, str]:
        key = (shown(source_of(entry)), shown(entry.task))
        if key not in part.groups and len(part.groups) >= MAX_GROUPS:
            key = (OTHERS, OTHERS)
            note = f"{part.name}: only the first {MAX_GROUPS} pairs of source and task are told apart"
            if note not in self.audit.notes:
                self.audit.notes.append(note)
        return key

    def _add(self, part: Part, index: int, path: Any, kind: str, detail: str = "") -> None:
        finding = Finding(part.name, index, shown(str(path)), kind, shown(detail))
        part.findings[finding.kind] += 1
        examples = self.audit.examples.setdefault(finding.kind, [])
        if len(examples) < self._listed:
            examples.append(finding)
        self._found(finding)

    def compare(self) -> None:
        """Find repeats and leaks, then read once more to name them."""
        compared = self._ledger.compare(len(self.parts), len(self._groups))
        held = [self.parts[place].groups[key] for place, key in self._groups]
        sums: list[tuple[str, Sequence[Part | Group]]] = [("part", self.parts), ("group", held)]
        for by, places in sums:
            for one, files, seconds in zip(places, *compared.files[by], strict=True):
                one.files, one.file_seconds = int(files), float(seconds)
        for kind, pairs in compared.leaks.items():
            if pairs:
                self.audit.leaks[kind] = [Shared(*pair, count) for pair, count in sorted(pairs.items())]
        if compared.marks.any():
            position = 0
            for part in self.parts:
                for index, item in enumerate(stream_items(part.name)):
                    if position < len(compared.marks) and compared.marks[position]:
                        for kind in _marked(int(compared.marks[position])):
                            self._add(part, index, item["path"], kind)
                    position += 1
        if not self._content:
            self.audit.notes.append(
                "equal audio under different names is not looked for (asked for: content)"
            )
        if self._expanded:
            self.audit.notes.append(
                f"{self._expanded} entries have further files ({EXPANSION}), which are not looked at"
            )
        if not self._audio:
            unknown = sum(part.entries - part.seconds.count for part in self.parts)
            self.audit.notes.append(
                f"audio files were not looked at; lengths are the entries' own, {unknown} have none"
            )


def _marked(marks: int) -> Iterator[str]:
    """What an entry is found for; a leak once, by its surest sign."""
    if marks & SAME_ENTRY:
        yield "same entry again"
    elif marks & SAME_PATH:
        yield "same path, other text"
    if marks & SAME_CONTENT:
        yield "same content, other path"
    if marks & SAME_TEXT:
        yield "same text and length, other path"
    if marks & PATH_LEAKS:
        yield "path in another annotation"
    elif marks & CONTENT_LEAKS:
        yield "content in another annotation"
    elif marks & NAME_LEAKS:
        yield "same path in another annotation's folder"
    elif marks & TEXT_LEAKS:
        yield "text and length in another annotation"


def outlier(seconds: float) -> str:
    """The kind of a clip that is too short or too long for the model as it is; "" for others."""
    if seconds == 0:
        return "0 s"
    if seconds < _SHORT:
        return f"under {_SHORT:g} s"
    return f"over {_LONG:g} s" if seconds > _LONG else ""


def _told_seconds(entry: Entry) -> float | None:
    told = entry.extras.get("duration")
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told < _NEVER:
        return None
    return float(told)
