"""What a machine lacked, in words: memory, room on a disk, the right to write, a file that was there before.

Such faults reach us as exceptions of many libraries, which know what failed but not what to do about it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from audiolm_compress.errors import MachineError

_GIB = 2**30
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
# Libraries written in Rust (safetensors, tokenizers) give the system's number in words alone.
_NUMBER = re.compile(r"\(os error (\d+)\)")
# torch raises RuntimeErrors on the CPU, an OutOfMemoryError on a card; numpy a MemoryError.
_OUT_OF_MEMORY = re.compile(r"DefaultCPUAllocator|can't allocate memory|out of memory", re.IGNORECASE)
_ASKED = re.compile(r"allocate ([\d.]+ (?:bytes|[KMGTP]i?B))")


def explanation(error: BaseException, where: Path | None = None) -> str | None:
    """What was lacking, what there was of it and what to do; None if ``error`` says nothing of the kind.

    Args:
        error: as it was raised.
        where: what was being written, for errors that do not name a file.
    """
    if words := out_of_memory(error):
        return words
    number = _number(error)
    path = getattr(error, "filename", None) or where
    named = "a file" if path is None else str(path)
    if number in _FULL:
        return f"no room to write {named}{_free(path)}; make room on that disk"
    if number in _FORBIDDEN:
        return f"{named} is not accessible ({os.strerror(number)}); change its rights or name another place"
    if number in _GONE:
        return f"{named} is not there ({os.strerror(number)}), or no longer; put it back"
    if number == errno.EIO:
        return f"{named}: the disk gave an input/output error; see whether it is sound"
    return None


def out_of_memory(error: BaseException) -> str | None:
    """``explanation`` of an error by which memory was lacking; None of any other."""
    raised = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))
    if not (raised or isinstance(error, MemoryError) or _number(error) == errno.ENOMEM):
        return None
    return _memory(str(error))


@contextmanager
def explained(where: Path | None = None) -> Iterator[None]:
    """Inside, an error by which the machine lacked something becomes a ``MachineError`` in words.

    Args:
        where: what is being written.
    """
    try:
        yield
    except MachineError:
        raise
    except Exception as error:
        words = explanation(error, where)
        if words is None:
            raise
        raise MachineError(words) from error


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found[1]) if found else None


def _memory(text: str) -> str:
    """A block that could not be had is not all that is needed, but says of which order that is."""
    found = _ASKED.search(text)
    asked = f": {_readable(found[1])} asked for in one piece" if found else ""
    memory = psutil.virtual_memory()
    here = (
        "on the card"
        if "CUDA" in text
        else f"where {memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB are free now"
    )
    return (
        f"out of memory{asked}, {here}; end other programs, take fewer clips (data.calibration_clips, "
        "benchmark.batch_size) or a machine with more; `audiolm-compress plan` says what a recipe's models "
        "take up"
    )


def _readable(amount: str) -> str:
    number, unit = amount.split()
    return f"{float(number) / _GIB:.2f} GiB" if unit == "bytes" else amount


def _free(path: str | Path | None) -> str:
    """Of the file system of ``path``, or of the nearest folder that is there."""
    for folder in () if path is None else (Path(path), *Path(path).parents):
        with suppress(OSError):
            return f" ({shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free)"
    return ""
