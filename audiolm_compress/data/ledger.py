"""Digests of any number of entries in a file on disk, and what repeats among them in bounded memory.

Equal digests have equal remainders: by these the rows are taken in buckets of some 100,000, each of
which is compared in memory (Knuth, The Art of Computer Programming 3, section 6.5, "bucket"). One byte an
entry, its marks, is all that grows with their number.
"""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from audiolm_compress.data.repeats import repeats, repeats_elsewhere, shared

NAME = "path below its own folder"
KINDS = ("path", "entry", "content", "text and length", NAME)
SAME_ENTRY, SAME_PATH, SAME_CONTENT, SAME_TEXT, PATH_LEAKS, CONTENT_LEAKS, TEXT_LEAKS, NAME_LEAKS = (
    1 << bit for bit in range(8)
)
_LEAKS = {"path": PATH_LEAKS, "content": CONTENT_LEAKS, "text and length": TEXT_LEAKS, NAME: NAME_LEAKS}
_AGAIN = {"path": SAME_PATH, "entry": SAME_ENTRY, "content": SAME_CONTENT, "text and length": SAME_TEXT}

_ROW = struct.Struct("<B5QHd")
_COLUMNS = np.dtype(
    [("part", "u1"), *((kind, "<u8") for kind in KINDS), ("group", "<u2"), ("seconds", "<f8")]
)
_BUCKET = 1 << 17
_BLOCK = 1 << 16  # rows read at a time
_BUFFER = 1 << 20

Rows = NDArray[Any]  # of the type _COLUMNS


@dataclass
class Compared:
    """What repeats.

    Attributes:
        marks: bits SAME_ENTRY to NAME_LEAKS, uint8 [entries].
        files: how many different ones each part and each group has, and their seconds: "part" or "group" to
            (int64 [parts or groups], float64 [parts or groups]).
        leaks: by kind and pair of parts, how many different digests both hold.
    """

    marks: NDArray[np.uint8]
    files: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    leaks: dict[str, Counter[tuple[int, int]]] = field(default_factory=dict)


class Ledger:
    """One row for each entry, in a temporary file that is gone when the block ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=_BUFFER)  # noqa: SIM115  # closed with the ledger
        self.rows = 0

    def add(
        self,
        part: int,
        path: int,
        entry: int,
        content: int,
        text: int,
        name: int = 0,
        group: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Note the digests of an entry of the annotation ``part``; 0 is "unknown".

        ``path`` is the place of the file; ``name``, its path below the annotation's own folder, is for
        annotations of different folders, such as one that was converted. ``group`` numbers the groups of all
        annotations; ``seconds`` is the length of the file, 0 if it is not known.

        Raises:
            OSError: no space is left for temporary files.
        """
        self._file.write(_ROW.pack(part, path, entry, content, text, name, group, seconds))
        self.rows += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def compare(self, parts: int, groups: int = 1) -> Compared:
        """Mark what repeats within an annotation, and what several of ``parts`` annotations hold."""
        sizes = {"part": parts, "group": groups}
        files = {by: (np.zeros(size, np.int64), np.zeros(size)) for by, size in sizes.items()}
        found = Compared(np.zeros(self.rows, dtype=np.uint8), files)
        for kind in KINDS:
            for places, rows in self._buckets(kind):
                digests, part = rows[kind].copy(), rows["part"].copy()
                for by, size in sizes.items() if kind == "path" else ():
                    first = rows[~repeats(digests, rows[by])]
                    files[by][0][:] += np.bincount(first[by], minlength=size)
                    files[by][1][:] += np.bincount(first[by], first["seconds"], size)
                if kind in _AGAIN:
                    elsewhere = kind in ("content", "text and length")
                    again = (
                        repeats_elsewhere(digests, rows["path"].copy(), part)
                        if elsewhere
                        else repeats(digests, part)
                    )
                    found.marks[places[again]] |= _AGAIN[kind]
                if kind in _LEAKS and parts > 1:
                    leaking, pairs = shared(digests, part, parts)
                    found.marks[places[leaking]] |= _LEAKS[kind]
                    counts = found.leaks.setdefault(kind, Counter())
                    counts.update({(pair.first, pair.second): pair.count for pair in pairs})
        return found

    def _buckets(self, kind: str) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        """(places, rows) whose digests of a kind have the same remainder; all that are equal are together."""
        count = -(-self.rows // _BUCKET)
        for bucket in range(count):
            places, rows = [], []
            for start, block in self._blocks():
                known = block[kind] != 0  # all that are unknown would fall into one bucket
                kept = np.flatnonzero(known & (block[kind] % count == bucket))
                places.append(kept + start)
                rows.append(block[kept])
            yield np.concatenate(places), np.concatenate(rows)

    def _blocks(self) -> Iterator[tuple[int, Rows]]:
        self._file.seek(0)
        for start in range(0, self.rows, _BLOCK):
            read = self._file.read(min(_BLOCK, self.rows - start) * _ROW.size)
            yield start, np.frombuffer(read, dtype=_COLUMNS)
