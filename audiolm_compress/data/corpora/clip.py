"""What a corpus offers and what it lacks, and how its folders are looked through."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audiolm_compress.errors import DataError

# What libsndfile reads of what corpora come in.
SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3")


@dataclass(frozen=True)
class Piece:
    """A part of a recording that becomes a file of its own.

    Attributes:
        name: path of that file without suffix, relative to the folder of clips.
        start: seconds into the recording.
        end: seconds into the recording; None for its end.
    """

    name: str
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Clip:
    """One entry to be.

    Attributes:
        file: the audio file or recording, which need not exist, or the bytes of one that has no file.
        texts: reference texts, at least one.
        task: upstream's name of the task.
        extras: further keys of the entry.
        piece: what is to become a file of its own; None where the audio file stays as it is.
    """

    file: Path | bytes
    texts: tuple[str, ...]
    task: str
    extras: Mapping[str, object] = field(default_factory=dict)
    piece: Piece | None = None


@dataclass(frozen=True)
class Missing:
    """Something that gives no entry.

    Attributes:
        name: path or id.
        reason: why, without figures or names, as it is counted by.
    """

    name: str
    reason: str


Offer = Iterator[Clip | Missing]


def chosen(corpus: str, folder: Path, found: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The parts that are asked for, in their order; without a wish the only one there is.

    Raises:
        DataError: the folder has no part, not the one asked for, or several and none is asked for.
    """
    if not found:
        raise DataError(f"{folder}: nothing of {corpus} is in this folder; `--help` tells its layout")
    unknown = [name for name in asked if name not in found]
    if unknown:
        raise DataError(f"{folder}: asked for {', '.join(unknown)}, found {', '.join(found)}")
    if not asked and len(found) > 1:
        raise DataError(f"{folder}: holds {', '.join(found)}; choose with --split, which may be repeated")
    return list(dict.fromkeys(asked)) or list(found)


def audio_beside(folder: Path, stem: str) -> Path:
    """The audio file of a name without suffix; where there is none, the one that should be there."""
    files = [folder / (stem + suffix) for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), files[0])


class AudioFiles:
    """All audio files below a folder by their names without suffix, wherever an unpacker has put them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, list[Path]] = {}
        for place, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = Path(place, name)
                if path.suffix.lower() in SUFFIXES:
                    self._files.setdefault(_spelt(path.stem), []).append(path)

    def find(self, split: str, stems: Sequence[str]) -> Path:
        """The file of the first name that there is, best one in a folder that is named like the split.

        Where there is none, the place where it is looked for first.
        """
        found = next((self._files[stem] for stem in map(_spelt, stems) if stem in self._files), None)
        if found is None:
            return self._folder / split / (stems[0] + SUFFIXES[0])
        own = (file for file in found if split in file.relative_to(self._folder).parts)
        return next(own, found[0])


def _spelt(name: str) -> str:
    """In one of the Unicode forms, as an unpacker may have written another one than the table has."""
    return unicodedata.normalize("NFC", name)


def table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header.

    Raises:
        DataError: it cannot be read, has no such columns, or a row of another length.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise DataError(f"{path}: expected a column {lacking[0]!r}, found {reader.fieldnames}")
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}: line {reader.line_num} has not as many values as the header")
                yield row
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from error
