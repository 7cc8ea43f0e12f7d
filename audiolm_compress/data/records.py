"""Which clips of a folder are finished, known from their content and not from their being there.

A clip is finished if its record is in the folder's file of records. A record is a digest over all that made
the clip (the source's bytes, the form, the piece that was cut, the name) and over the bytes that came out,
so a file that was torn, changed or made of another source has none. Records are of equal size and are
appended when the clip has its name; what a kill leaves of a last one is cut off.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from audiolm_compress.errors import DataError
from audiolm_compress.locked import take

FILE = ".clips"
PARTIAL = ".partial"
_NAME_BYTES, _RECORD_BYTES = 8, 24
_ROW = np.dtype([("name", "<u8"), ("record", f"V{_RECORD_BYTES}")])
_BLOCK = 1 << 20


class Records:
    """Records of the clips in one folder: those found at the start, and those added since."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        rows = np.frombuffer(file.read(), dtype=np.uint8)
        whole = len(rows) // _ROW.itemsize * _ROW.itemsize
        file.truncate(whole)
        file.seek(whole)
        found = rows[:whole].view(_ROW)
        order = np.argsort(found["name"], kind="stable")  # of equal names the last is the newest
        self._names, self._records = found["name"][order], found["record"][order]
        self._file = file

    def get(self, name: str) -> bytes:
        """The record of a clip; empty if it has none."""
        wanted = _name_digest(name)
        place = int(np.searchsorted(self._names, np.uint64(wanted), side="right")) - 1
        if place < 0 or int(self._names[place]) != wanted:
            return b""
        return bytes(self._records[place])

    def add(self, name: str, record: bytes) -> None:
        """Note a finished clip; it counts from the next start on."""
        self._file.write(_name_digest(name).to_bytes(_NAME_BYTES, "little") + record)
        self._file.flush()


@contextmanager
def opened_records(folder: Path) -> Iterator[Records]:
    """The records of a folder, for one process at a time; unfinished files of an earlier one are removed.

    Raises:
        DataError: another process writes to the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
    with file:
        if not take(file.fileno()):
            raise DataError(
                f"{folder}: another process writes clips there; wait for it or name another folder"
            )
        partial = folder / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(exist_ok=True)
        try:
            yield Records(file)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def record(*parts: object) -> bytes:
    """Digest over all that made a clip and over what came out."""
    return hashlib.blake2b(repr(parts).encode("utf-8"), digest_size=_RECORD_BYTES).digest()


def content(path: Path) -> str:
    """Digest of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    made = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            made.update(block)
    return made.hexdigest()


def _name_digest(name: str) -> int:
    made = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_NAME_BYTES).digest()
    return int.from_bytes(made, "little")
