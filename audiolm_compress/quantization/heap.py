"""Memory that was freed and that the C library keeps."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _trim() -> Any | None:
    """The function ``malloc_trim`` of glibc; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Hand freed memory back to the system, where the C library can be asked to.

    glibc keeps freed blocks of up to 32 MB for later. Between blocks of other sizes they are of little use,
    and the layers of a model of gigabytes, rearranged one after the other, leave as much again behind.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
