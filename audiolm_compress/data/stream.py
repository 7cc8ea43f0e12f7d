"""An annotation file entry by entry: one mebibyte of it is in memory, however long it is.

JSON tells where a value ends, so a list can be walked along a sliding piece of text. Each value is held to
the rules of :mod:`audiolm_compress.untrusted`.
"""

from __future__ import annotations

import codecs
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from audiolm_compress.errors import DataError
from audiolm_compress.untrusted import check_size, parse_json_at

LIST = "annotation"
MOST_BYTES = 2**36  # a thousand bytes for each of 64 million entries
_PIECE_BYTES = 1 << 20
# No entry is longer: what is, lacks a bracket or was not made as an annotation.
_VALUE_CHARACTERS = 1 << 24
# So many characters must follow a value before it is known to end there: 1 may become 1.5 or 1e+5.
_AHEAD = 3
_BLANK = " \t\r\n"


def stream_items(path: str | Path, *, key: str = LIST, limit: int = MOST_BYTES) -> Iterator[Any]:
    """The members of the list of ``{"annotation": [...]}`` in order, unchecked; other keys are passed over.

    Args:
        path: JSON in UTF-8, with or without a byte order mark.
        key: of the list; the indexes of corpora have others.
        limit: most bytes of the file.

    Raises:
        DataError: the file cannot be read, is not such JSON, holds an empty list or a value of more than
            16 Mi characters. What lies behind an entry is looked at after the entry was given.
    """
    path = Path(path)
    try:
        check_size(path, limit)
        with path.open("rb") as file:
            yield from _Reader(path, file, key).items()
    except OSError as error:
        raise DataError(f"{path}: annotation file cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: not an annotation file: {error}") from error


class _Reader:
    """A sliding piece of text with a place in it."""

    def __init__(self, path: Path, file: BinaryIO, list_key: str) -> None:
        self._path = path
        self._list_key = list_key
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._place = 0
        self._passed = 0  # characters that were dropped before the piece
        self._ended = False

    def items(self) -> Iterator[Any]:
        if self._next() != "{":
            self._value()  # what is no JSON is told as such
            raise self._no_list()
        self._place += 1
        found: int | None = None
        for key in self._keys():
            if key != self._list_key:
                self._value()
                continue
            if found is not None:
                raise self._broken(f"key {key!r} is given twice")
            if self._next() != "[":
                raise self._no_list()
            self._place += 1
            found = yield from self._members()
        if self._next():
            raise self._broken("text behind the end")
        if found is None:
            raise self._no_list()
        if not found:
            raise DataError(
                f"{self._path}: the {self._list_key} list is empty; add entries or name another file"
            )

    def _keys(self) -> Iterator[str]:
        """Each key, with the place behind its colon; the caller reads the value."""
        if self._next() == "}":
            self._place += 1
            return
        while True:
            if self._next() != '"':
                raise self._broken("expected a key")
            key = self._value()
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def _members(self) -> Generator[Any, None, int]:
        """Each member; returns how many there were."""
        if self._next() == "]":
            self._place += 1
            return 0
        count = 0
        while True:
            yield self._value()
            count += 1
            if self._take(",]") == "]":
                return count

    def _value(self) -> Any:
        """The value that begins here. One that reaches the end of the piece may go on behind it."""
        self._next()
        while True:
            try:
                value, end = parse_json_at(self._text, self._place)
            except ValueError as error:
                if self._ended or len(self._text) - self._place > _VALUE_CHARACTERS:
                    raise self._broken(str(error).partition(": line")[0]) from error
            else:
                if end + _AHEAD <= len(self._text) or self._ended:
                    self._place = end
                    return value
            # Twice as much each time, so that a long value is not parsed over and over.
            self._more(max(_PIECE_BYTES, len(self._text) - self._place))

    def _take(self, expected: str) -> str:
        found = self._next()
        if not found or found not in expected:
            raise self._broken(f"expected {' or '.join(map(repr, expected))}")
        self._place += 1
        return found

    def _next(self) -> str:
        """The next character that is not blank, "" at the end; the place is there."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in _BLANK:
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if self._ended:
                return ""
            self._more(_PIECE_BYTES)

    def _more(self, count: int) -> None:
        read = self._file.read(count)
        self._ended = not read
        try:
            added = self._decode(read, self._ended)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._path}: not a JSON annotation file (no UTF-8 text)") from error
        self._passed += self._place
        self._text = self._text[self._place :] + added
        self._place = 0

    def _broken(self, reason: str) -> DataError:
        return DataError(f"{self._path}: not JSON ({reason} at character {self._passed + self._place})")

    def _no_list(self) -> DataError:
        return DataError(f'{self._path}: expected {{"{self._list_key}": [...]}}, found no list of that name')
