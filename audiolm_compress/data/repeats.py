"""Which entries repeat others, in one annotation or between several, from 8 bytes an entry and kind.

Two different texts share a digest of 64 bits by chance with probability n^2 / 2^65: 7e-8 among 1.6 million.
Zero stands for "unknown", which repeats nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]
Mask = NDArray[np.bool_]
_BYTES = 8
_BLOCK = 1 << 20


def digest(*parts: object) -> int:
    """64 bits of BLAKE2b over the parts, whose borders count; never 0.

    >>> digest("a", "bc") != digest("ab", "c")
    True
    """
    made = hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()
    return int.from_bytes(made, "little") or 1


def file_digest(path: Path) -> int:
    """64 bits of BLAKE2b over the bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    made = hashlib.blake2b(digest_size=_BYTES)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            made.update(block)
    return int.from_bytes(made.digest(), "little") or 1


@dataclass(frozen=True)
class Shared:
    """What two annotations have in common.

    Attributes:
        first: index of the one annotation.
        second: index of the other one.
        count: different digests that both hold.
    """

    first: int
    second: int
    count: int


def repeats(digests: Digests, parts: NDArray[np.uint8]) -> Mask:
    """Entries that equal an earlier one of the same part.

    Args:
        digests: uint64 [entries].
        parts: index of each entry's annotation, [entries].

    Returns:
        bool [entries].
    """
    order = np.lexsort((np.arange(len(digests)), digests, parts))
    sorted_digests, sorted_parts = digests[order], parts[order]
    again = np.zeros(len(digests), dtype=bool)
    again[order[1:]] = (
        (sorted_digests[1:] == sorted_digests[:-1])
        & (sorted_parts[1:] == sorted_parts[:-1])
        & (sorted_digests[1:] != 0)
    )
    return again


def repeats_elsewhere(digests: Digests, paths: Digests, parts: NDArray[np.uint8]) -> Mask:
    """As :func:`repeats`, among entries of different paths: one clip with several texts is none.

    Args:
        digests: of what must not repeat, uint64 [entries].
        paths: of the paths, uint64 [entries].
        parts: index of each entry's annotation, [entries].
    """
    order = np.lexsort((paths, digests, parts))
    same = (np.diff(digests[order]) == 0) & (np.diff(paths[order]) == 0) & (np.diff(parts[order]) == 0)
    kept = digests.copy()
    kept[order[1:][same]] = 0
    return repeats(kept, parts)


def shared(digests: Digests, parts: NDArray[np.uint8], count: int) -> tuple[Mask, list[Shared]]:
    """Entries whose digest is found in another part as well, and how many each two parts share.

    Args:
        digests: uint64 [entries].
        parts: index of each entry's annotation, [entries].
        count: of parts.
    """
    sets = [np.unique(digests[(parts == part) & (digests != 0)]) for part in range(count)]
    found, leaks = [], []
    for first, second in combinations(range(count), 2):
        common = np.intersect1d(sets[first], sets[second], assume_unique=True)
        found.append(common)
        if len(common):
            leaks.append(Shared(first, second, len(common)))
    common = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)
    return np.isin(digests, common), leaks
