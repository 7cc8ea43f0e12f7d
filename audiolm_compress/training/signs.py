"""Signs that the processes of one launch leave for each other, beside their collective operations.

Collectives must be met by all processes in one order, and waiting in one may keep a core or a card busy, for
which it has a time limit too. A sign is left when it is due and looked for now and then: a process can wait
for hours without disturbing what another one times, it can be interrupted, and one that has failed can say so
while the others are amid something else.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from functools import cache

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from audiolm_compress.errors import AudioLMError

FAILED = "failed"
_LOOK = 0.2  # seconds between two looks


@cache
def _store() -> Store:
    """A connection of our own to the server through which the processes found each other.

    NCCL's and gloo's threads use theirs; a shared one would serve one of them at a time.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    server = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"audiolm_compress/{attempt}", server)


def leave(name: str, word: str = "here") -> None:
    """Leave a sign; a later word takes the place of an earlier one."""
    _store().set(name, word)


def is_left(name: str) -> bool:
    """Whether a process has left this sign."""
    return _store().check([name])


def is_first(name: str) -> bool:
    """Leave a sign; True in the first process to leave this one."""
    return _store().add(name, 1) == 1


def awaited(name: str) -> str:
    """Wait for a sign, however long it takes.

    Raises:
        AudioLMError: a process has failed, and nobody may ever leave it.
    """
    while not is_left(name):
        if is_left(FAILED):
            raise AudioLMError("another process of this launch has failed; its message says why")
        time.sleep(_LOOK)
    return _store().get(name).decode()
