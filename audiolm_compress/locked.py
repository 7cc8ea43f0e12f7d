"""One process at a time: a lock that the system frees when its holder ends, in whatever way."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiolm_compress.errors import AudioLMError


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Inside, no other process is inside with the same ``file``.

    Args:
        file: made if it is missing; may be removed while it is held.
        what: is being worked on, for the message.

    Raises:
        AudioLMError: another process holds it; says which.
        OSError: the file cannot be made.
    """
    descriptor = _acquired(file, what)
    try:
        holder = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        os.truncate(descriptor, 0)
        os.write(descriptor, holder.encode())
        yield
    finally:
        os.close(descriptor)


def _acquired(file: Path, what: str) -> int:
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not take(descriptor):
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise AudioLMError(
                f"{what} is being written by {holder}; wait until it has ended, or name another folder"
            )
        if _is(descriptor, file):
            return descriptor
        os.close(descriptor)  # its former holder removed the file before the lock was ours


def take(descriptor: int) -> bool:
    """Lock an open file until it is closed, or its process ends in whatever way; whether nobody else has.

    Args:
        descriptor: of a file that is open for writing.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(descriptor: int, file: Path) -> bool:
    """Whether ``file`` still is what ``descriptor`` was opened as."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
