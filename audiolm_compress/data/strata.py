"""Entries that can be used, one after the other, and the kinds that they fall into."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from audiolm_compress.data.annotation import Entry, entry_problems, make_entry
from audiolm_compress.data.stream import stream_items
from audiolm_compress.errors import DataError

OnBad = Literal["stop", "skip"]
Stratum = tuple[str, ...]
MAX_STRATA = 1000
_LISTED = 10
_SHOWN_CHARACTERS = 200
_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"})


@dataclass
class Bad:
    """Entries that cannot be used: how many, and the first of them."""

    annotation: str
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, index: int, reason: str) -> None:
        """Note one."""
        self.count += 1
        if len(self.first) < _LISTED:
            self.first.append(f"entry {index}: {shown(reason)}")

    def settle(self, on_bad: OnBad) -> list[str]:
        """Notes about what was left out.

        Raises:
            DataError: there is any and ``on_bad`` is ``stop``.
        """
        if not self.count:
            return []
        more = ["..."] if self.count > len(self.first) else []
        if on_bad == "stop":
            raise DataError(
                "\n  ".join([f"{self.annotation}: {self.count} entries cannot be used:", *self.first, *more])
                + "\nCorrect or remove them, or leave them out (on bad: skip)."
            )
        return [f"{self.count} entries that cannot be used are left out: {'; '.join(self.first + more)}"]


def usable(
    annotation: str | Path, prefix: str | Path | None, bad: Bad
) -> Iterator[tuple[int, dict[str, Any], Entry]]:
    """(index, item as it stands in the file, entry) of all that have no problem; others go to ``bad``.

    Raises:
        DataError: the file cannot be read or is no annotation.
    """
    folder = Path(annotation).parent if prefix is None else Path(prefix)
    for index, item in enumerate(stream_items(annotation)):
        problems = entry_problems(item)
        if problems:
            bad.add(index, "; ".join(problems))
        else:
            yield index, item, make_entry(item, folder)


class Strata:
    """Tells entries apart by keys and counts the kinds that were met.

    Args:
        by: ``task``, ``source`` (see :func:`source_of`) and any other keys of the entries. None at all: every
            entry is of one kind.
    """

    def __init__(self, by: Sequence[str]) -> None:
        self.by = tuple(by)
        self.counts: dict[Stratum, int] = {}

    def of(self, item: dict[str, Any], entry: Entry) -> Stratum:
        """The kind of an entry, counted; "" stands for a key that it does not have.

        Raises:
            DataError: there are more than 1000.
        """
        found = tuple(self._value(key, item, entry) for key in self.by)
        if found not in self.counts and len(self.counts) == MAX_STRATA:
            raise DataError(
                f"by {', '.join(self.by)}: found more than {MAX_STRATA} kinds of entries; name fewer keys"
            )
        self.counts[found] = self.counts.get(found, 0) + 1
        return found

    @staticmethod
    def _value(key: str, item: dict[str, Any], entry: Entry) -> str:
        if key == "task":
            return shown(entry.task)
        return shown(source_of(entry) if key == "source" else str(item.get(key, "")))


def shown(text: str) -> str:
    r"""Text of an annotation as tables and terminals take it: in one line, of at most 200 characters.

    >>> shown("caf\u00e9 a/b.wav"), shown("a\x1b[2J"), shown("\ud800")
    ('café a/b.wav', 'a\\x1b[2J', '\\ud800')
    """
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
    return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")


def source_of(entry: Entry) -> str:
    """``source`` of the entry, else the first folder of its path; empty without one.

    >>> source_of(Entry("LibriSpeech/dev/1.flac", Path("x"), "", ()))
    'LibriSpeech'
    """
    named = entry.extras.get("source")
    if named:
        return str(named)
    first, slash, _ = posixpath.normpath(entry.path).partition("/")
    return first if slash else ""


def clip_name(path: str) -> str:
    """What stays of a path when the clip is converted.

    >>> clip_name("a/./b.flac"), clip_name("a/b.wav"), clip_name("a/b.1")
    ('a/b', 'a/b', 'a/b.1')
    """
    stem, suffix = posixpath.splitext(posixpath.normpath(path))
    return stem if suffix.lower() in _SUFFIXES else stem + suffix
