"""Text files of a bounded size."""

from __future__ import annotations

import stat
from pathlib import Path

TEXT_BYTES = 64 * 2**20  # of a config, a prompt file or a report; Gemma's tokenizer.json has 34 MB


def read_text(path: Path, limit: int = TEXT_BYTES, encoding: str = "utf-8") -> str:
    """The text of a regular file.

    Args:
        path: the file. A device or a pipe would give bytes without end, or none until somebody writes.
        limit: most bytes.
        encoding: ``utf-8`` or ``utf-8-sig``, which skips a byte-order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, is larger than ``limit`` or is no UTF-8 text.
    """
    check_size(path, limit)
    return path.read_text(encoding=encoding)


def check_size(path: Path, limit: int) -> None:
    """See that a file is a regular one of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be looked at.
        ValueError: it is no regular file or is larger. A folder passes: opening it says so.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise ValueError("is no regular file")
    if found.st_size > limit:
        raise ValueError(f"has {found.st_size} bytes, more than the {limit} that such a file may have")
