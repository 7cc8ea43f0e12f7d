"""The processes of ``accelerate launch`` speak as one: the main one prints, and an error is told once.

An error may come to all of them at once or to one alone, while others wait for it in an operation that then
breaks. So the first to fail tells; the others wait until it has, as a launcher ends all when one has ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TOLD = "failure told"
_PATIENCE = 10.0  # seconds that the first to fail is given to tell


def launched_with_others() -> bool:
    """Whether a launcher has started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ


def is_main() -> bool:
    """Whether this process is the one that prints."""
    return not launched_with_others() or os.environ.get("RANK", "0") == "0"


def another_failed() -> bool:
    """Whether this process fails only because another one of its launch has."""
    if not launched_with_others():
        return False
    from audiolm_compress.training import signs

    try:
        return signs.is_left(signs.FAILED)
    except RuntimeError:  # the process that kept the signs has ended
        return True


@contextmanager
def failing() -> Iterator[bool]:
    """Yield whether this process is to tell what went wrong; the others wait until that is done."""
    if not launched_with_others():
        yield True
        return
    from audiolm_compress.training import signs

    try:
        first = signs.is_first(signs.FAILED)
    except RuntimeError:  # nobody keeps signs, or no longer: better told twice than never
        yield True
        return
    yield first
    end = time.monotonic() + _PATIENCE
    with suppress(RuntimeError):  # the process that kept the signs has ended
        if first:
            signs.leave(_TOLD)
        while not signs.is_left(_TOLD) and time.monotonic() < end:
            time.sleep(0.05)
