"""What a kind of hostile file is, and what several of them are made with.

``@hostile(reader, reason)`` registers one. Its function gets a :class:`Clean` and returns what the reader is
given. Whatever would be executed makes ``executed`` in the same folder.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..conftest import Clean

Make = Callable[[Clean], Any]
BILLION = 10**9


@dataclass(frozen=True)
class Kind:
    """One kind: how to make it, what reads it, why it is refused (a regular expression)."""

    make: Make
    read: Callable[[Any], object]
    reason: str


KINDS: dict[str, Kind] = {}


def hostile(read: Callable[[Any], object], reason: str) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        KINDS[make.__name__] = Kind(make, read, reason)
        return make

    return register


def touching(clean: Clean) -> str:
    return f"open({str(clean.place / 'executed')!r}, 'w')"


def wav(
    rate: int = 16_000, channels: int = 1, samples: bytes = bytes(3200), promised: int | None = None
) -> bytes:
    size = len(samples) if promised is None else promised
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 % 2**32, channels * 2 % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", min(len(body), 2**32 - 1)) + body
