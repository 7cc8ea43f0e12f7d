"""Writing annotations of any length, and lists of what was left out of them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from audiolm_compress.data.strata import shown
from audiolm_compress.errors import DataError

LEFT_OUT = ".left_out.csv"
_EXAMPLES = 5


class AnnotationWriter:
    """Entries of one annotation, one after the other."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.entries = 0

    def add(self, item: Mapping[str, Any]) -> None:
        """Write one entry."""
        self._file.write(",\n" if self.entries else "\n")
        json.dump(item, self._file)  # in ASCII: an extra key may hold what is no character
        self.entries += 1


@contextmanager
def written_annotation(path: Path) -> Iterator[AnnotationWriter]:
    """What writes an annotation, one entry a line; it appears as a whole when the block ends without error.

    Raises:
        DataError: it cannot be written, or has no entry.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write('{"annotation": [')
            writer = AnnotationWriter(file)
            yield writer
            file.write("\n]}\n")
        if not writer.entries:
            raise DataError(f"{path}: no entry is left to write")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)


class LeftOut:
    """What was left out and why: counts and first names in memory, all in a CSV file."""

    def __init__(self, file: TextIO) -> None:
        self._file = csv.writer(file)
        self._file.writerow(("name", "reason"))
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, name: str, reason: str, kind: str = "") -> None:
        """Note one name.

        Args:
            name: path or id.
            reason: as exact as it is known.
            kind: what it is counted under; the reason itself if empty.
        """
        self._file.writerow((name, reason))
        self.counts[kind or reason] += 1
        examples = self.examples.setdefault(kind or reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(name)

    @property
    def total(self) -> int:
        """How many."""
        return self.counts.total()

    def lines(self) -> list[str]:
        """One line for each reason: how many, why, the first names."""
        return [
            f"{count} x {shown(reason)}: {', '.join(map(shown, self.examples[reason]))}"
            + (", ..." if count > _EXAMPLES else "")
            for reason, count in self.counts.most_common()
        ]


@contextmanager
def left_out_beside(annotation: Path) -> Iterator[LeftOut]:
    """Where to note what an annotation lacks: a CSV file beside it, which is there if anything is in it.

    The list is also written when the block ends with an error, which it may explain.

    Raises:
        DataError: it cannot be written.
    """
    path = left_out_path(annotation)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of a corpus may hold half of a surrogate pair, which is no character.
        file = partial.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    noted = LeftOut(file)
    try:
        yield noted
        path.unlink(missing_ok=True)  # an earlier list holds no longer
    finally:
        file.close()
        if noted.total:
            partial.replace(path)
        else:
            partial.unlink()


def left_out_path(annotation: Path) -> Path:
    """The list that belongs to an annotation.

    >>> left_out_path(Path("data/train.json")).as_posix()
    'data/train.left_out.csv'
    """
    return annotation.with_name(annotation.stem + LEFT_OUT)
