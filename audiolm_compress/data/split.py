"""An annotation split into parts such as train and test, between which no clip is shared.

Entries of one group (one audio file; on request, equal files, or one speaker) stay together. Groups are put
in order by kind and within a kind by a digest of seed and group, then dealt out: each goes to the part that
lacks most of its share of the entries dealt so far (the quota method of apportionment, Balinski and Young
1975). Of every run in that order, hence of every kind and of the whole, each part gets its share to within a
few groups, and kinds of one entry are not all dealt to the same part. A second reading writes the parts.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiolm_compress.data.annotation import EXPANSION, Entry
from audiolm_compress.data.annotation_writer import written_annotation
from audiolm_compress.data.repeats import digest, file_digest
from audiolm_compress.data.strata import Bad, OnBad, Strata, Stratum, clip_name, usable
from audiolm_compress.data.targets import check_target, folder_before_paths
from audiolm_compress.errors import DataError
from audiolm_compress.untrusted import escapes

_MOST_PARTS = 100
_BATCH = 512
_BLOCK = 1 << 16
_TELL_EVERY = 100_000


@dataclass(frozen=True)
class Split:
    """What was written.

    Attributes:
        files: of each part.
        by: the keys that tell kinds apart.
        entries: of each kind, how many each part has, in the order of ``files``.
        groups: how many groups were dealt.
        notes: what the counts do not tell.
    """

    files: dict[str, Path]
    by: tuple[str, ...]
    entries: dict[Stratum, list[int]]
    groups: int
    notes: list[str]


def split(
    annotation: str | Path,
    parts: Mapping[str, float],
    *,
    out: str | Path | None = None,
    by: Sequence[str] = ("task", "source"),
    group: str | None = None,
    content: bool = False,
    seed: int = 0,
    prefix: str | Path | None = None,
    on_bad: OnBad = "stop",
    replace: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Split:
    """Write each part as ``NAME.json``, its entries as they are and in their former order.

    Some 60 bytes an entry are in memory while groups are dealt.

    Args:
        annotation: JSON file of any length.
        parts: share of each part by name; shares add up to 1.
        out: folder to write to; None means the annotation's own.
        by: keys that tell the kinds apart; see :class:`~audiolm_compress.data.strata.Strata`.
        group: key of the entries, such as ``speaker``, whose equal values stay together. None: the file.
        content: read every audio file; those of equal bytes stay together, whatever their names.
        seed: another one gives another split.
        prefix: folder that paths are relative to; None means the annotation's own.
        on_bad: entries that cannot be used stop the work, or are left out and noted.
        replace: the files may be there.
        tell: called with a line about progress now and then.

    Raises:
        DataError: shares do not add up to 1, a part would be empty, files cannot be read or written, or hold
            something unusable.
    """
    annotation = Path(annotation)
    _check_parts(parts)
    if content and group is not None:
        raise DataError("split: asked for groups by content and by a key; choose one")
    folder = annotation.parent if out is None else Path(out)
    files = {name: folder / f"{name}.json" for name in parts}
    for file in files.values():
        check_target(file, annotation, replace)
    before = folder_before_paths(folder / "any.json", annotation, prefix)
    bad, strata = Bad(str(annotation)), Strata(by)
    keyed = _keyed(annotation, prefix, bad, group, content)
    groups, kinds = array("Q"), array("H")
    numbers: dict[Stratum, int] = {}
    for count, (index, item, entry, key) in enumerate(keyed, 1):
        groups.extend(0 for _ in range(index - len(groups)))  # those that cannot be used
        kinds.extend(0 for _ in range(index - len(kinds)))
        groups.append(digest(seed, key))
        kinds.append(numbers.setdefault(strata.of(item, entry), len(numbers)))
        if count % _TELL_EVERY == 0:
            tell(f"{annotation}: {count} entries read")
    notes = bad.settle(on_bad)
    # By name, so that the order in which kinds are met does not count.
    places = {kind: place for place, kind in enumerate(sorted(numbers))}
    ranks = np.array([places[kind] for kind in numbers], np.uint16)[np.frombuffer(kinds, np.uint16)]
    dealt, number = deal(np.frombuffer(groups, np.uint64), ranks, [*parts.values()])
    names = list(files)
    for place, name in enumerate(names):
        if not (dealt == place).any():
            raise DataError(
                f"{annotation}: part {name!r} would be empty: there are {number} groups of entries; give it "
                "a larger share, or leave it out"
            )
    entries = {stratum: [0] * len(names) for stratum in strata.counts}
    again, kind_names = Bad(str(annotation)), list(numbers)
    with ExitStack() as stack:
        writers = [stack.enter_context(written_annotation(file)) for file in files.values()]
        for index, item, _ in usable(annotation, prefix, again):
            if index >= len(dealt) or dealt[index] == NOWHERE:
                continue  # its audio file could not be read
            writers[dealt[index]].add({**item, "path": before + item["path"]})
            entries[kind_names[kinds[index]]][dealt[index]] += 1
    return Split(files, strata.by, entries, number, notes)


NOWHERE = 255


def deal(
    groups: NDArray[np.uint64], kinds: NDArray[np.uint16], shares: Sequence[float]
) -> tuple[NDArray[np.uint8], int]:
    """Which part each entry goes to, and how many groups there are.

    Args:
        groups: digest of each entry's group, uint64 [entries]; 0 for entries that go nowhere.
        kinds: number of each entry's kind, uint16 [entries]. A group is of the lowest that it has.
        shares: of the parts, which add up to 1.

    Returns:
        Index of the part or NOWHERE, uint8 [entries]; number of groups.
    """
    unique, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    kind = np.full(len(unique), np.iinfo(np.uint16).max, np.uint16)
    np.minimum.at(kind, inverse, kinds)
    order = np.lexsort((unique, kind))
    order = order[unique[order] != 0]
    part = np.full(len(unique), NOWHERE, dtype=np.uint8)
    have = [0] * len(shares)
    total = 0
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        chosen = []
        for size in sizes[block].tolist():
            total += size
            place = max(range(len(shares)), key=lambda one: shares[one] * total - have[one])
            have[place] += size
            chosen.append(place)
        part[block] = chosen
    return part[inverse], len(order)


def _check_parts(parts: Mapping[str, float]) -> None:
    if not 2 <= len(parts) <= _MOST_PARTS:
        raise DataError(f"split: asked for {len(parts)} parts; name 2 to {_MOST_PARTS}")
    for name, share in parts.items():
        if not name.strip() or escapes(name) or "/" in name or "\\" in name:
            raise DataError(f"split: part {name!r} cannot be the name of a file")
        if not 0 < share < 1:
            raise DataError(f"split: part {name!r} has a share of {share:g}, expected between 0 and 1")
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise DataError(f"split: shares add up to {sum(parts.values()):g}, expected 1")


def _keyed(
    annotation: Path, prefix: str | Path | None, bad: Bad, group: str | None, content: bool
) -> Iterator[tuple[int, dict[str, Any], Entry, str]]:
    """(index, item, entry, what its group is told by) of every entry that has one."""
    entries = usable(annotation, prefix, bad)
    if content:
        yield from _by_content(entries, bad)
        return
    for index, item, entry in entries:
        if group is None and item.get(EXPANSION):
            bad.add(index, f"has further files ({EXPANSION}), so that no file can be its group; name a group")
        elif group is None:
            yield index, item, entry, clip_name(entry.path)
        elif isinstance(item.get(group), str | int):
            yield index, item, entry, str(item[group])
        else:
            bad.add(index, f"no {group!r} that is text or a whole number, by which it would be grouped")


def _by_content(
    entries: Iterator[tuple[int, dict[str, Any], Entry]], bad: Bad
) -> Iterator[tuple[int, dict[str, Any], Entry, str]]:
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        while batch := list(islice(entries, _BATCH)):
            found = pool.map(lambda one: _content(one[2]), batch)
            for (index, item, entry), (reason, key) in zip(batch, found, strict=True):
                if reason:
                    bad.add(index, f"{entry.path}: {reason}")
                else:
                    yield index, item, entry, key


def _content(entry: Entry) -> tuple[str, str]:
    """(reason, "") or ("", digest) of the bytes of an audio file."""
    outside = entry.outside()
    if outside:
        return outside, ""
    try:
        if not entry.file.is_file():
            return "not a file" if entry.file.exists() else "missing", ""
        return "", f"{file_digest(entry.file):x}"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})", ""
