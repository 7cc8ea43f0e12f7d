"""A sample of an annotation in which every kind of entry has the same share, in one reading.

Each entry has a key, a digest of seed and content, and of every kind those with the smallest keys are taken:
a uniform sample without replacement ("bottom-k", Cohen and Kaplan, PODC 2007) that depends neither on the
order of the file nor, but for its size, on what else is in it. Shares are equal; a kind that has fewer gives
all, and the others share what is left. How much that is, shows at the end alone, but shares of kinds only
fall as more is read: ``clips`` entries, and one for each kind, are all that is kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from audiolm_compress.data.annotation import Entry
from audiolm_compress.data.annotation_writer import written_annotation
from audiolm_compress.data.header import read_header
from audiolm_compress.data.repeats import digest
from audiolm_compress.data.strata import Bad, OnBad, Strata, Stratum, usable
from audiolm_compress.data.targets import check_target, folder_before_paths
from audiolm_compress.errors import DataError

Name = TypeVar("Name", bound=tuple[str, ...])
_TELL_EVERY = 100_000


@dataclass(frozen=True)
class Sample:
    """What was drawn.

    Attributes:
        path: the file written.
        by: the keys that tell kinds apart.
        entries: of each kind in the annotation.
        drawn: of each kind.
        notes: what the counts do not tell.
    """

    path: Path
    by: tuple[str, ...]
    entries: dict[Stratum, int]
    drawn: dict[Stratum, int]
    notes: list[str]


def sample(
    annotation: str | Path,
    out: str | Path,
    *,
    clips: int,
    by: Sequence[str] = ("task", "source"),
    seed: int = 0,
    prefix: str | Path | None = None,
    audio: bool = True,
    on_bad: OnBad = "stop",
    replace: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Sample:
    """Draw entries, such as a calibration set, and write them as an annotation in their former order.

    Args:
        annotation: JSON file of any length.
        out: file to write, at or above the annotation's folder unless there is a prefix.
        clips: how many entries.
        by: keys that tell the kinds apart; see :class:`~audiolm_compress.data.strata.Strata`.
        seed: another one gives another sample.
        prefix: folder that paths are relative to; None means the annotation's own.
        audio: read the headers of the files that are to be drawn.
        on_bad: entries and audio files that cannot be used stop the drawing, or are left out and noted.
        replace: ``out`` may be there.
        tell: called with a line about progress now and then.

    Raises:
        DataError: files cannot be read or written, or hold nothing usable or something unusable.
    """
    annotation, out = Path(annotation), Path(out)
    if clips < 1:
        raise DataError(f"sample: asked for {clips} clips; ask for at least 1")
    check_target(out, annotation, replace)
    before = folder_before_paths(out, annotation, prefix)
    bad, strata, drawing = Bad(str(annotation)), Strata(by), Drawing(clips)
    for index, item, entry in usable(annotation, prefix, bad):
        stratum = strata.of(item, entry)
        place = (digest(seed, entry.path, entry.task, entry.Q, entry.texts), index)
        if drawing.wants(stratum, place):
            reason = _audio_problem(entry) if audio else ""
            if reason:
                bad.add(index, f"{entry.path}: {reason}")
            else:
                drawing.add(stratum, place, item)
        if (index + 1) % _TELL_EVERY == 0:
            tell(f"{annotation}: {index + 1} entries read")
    notes = bad.settle(on_bad)
    taken = drawing.taken()
    drawn = {stratum: len(taken.get(stratum, ())) for stratum in strata.counts}
    if sum(drawn.values()) < clips:
        notes.append(f"{clips} clips were asked for and there are {sum(drawn.values())}: all are taken")
    with written_annotation(out) as writer:
        for _, item in sorted((pair for kept in taken.values() for pair in kept), key=lambda pair: pair[0]):
            writer.add({**item, "path": before + item["path"]})
    return Sample(out, strata.by, strata.counts, drawn, notes)


def equal_shares(sizes: Mapping[Name, int], total: int) -> dict[Name, int]:
    """Shares that add up to ``total``, as equal as the sizes allow; what does not divide goes by name.

    >>> equal_shares({("a",): 1, ("b",): 9, ("c",): 9}, 8)
    {('a',): 1, ('b',): 4, ('c',): 3}
    """
    low, high = 0, max(sizes.values(), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        fits = sum(min(size, middle) for size in sizes.values()) <= total
        low, high = (middle, high) if fits else (low, middle - 1)
    shares = {name: min(size, low) for name, size in sizes.items()}
    larger = sorted(name for name, size in sizes.items() if size > low)
    for name in larger[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


class Drawing:
    """The entries of the smallest keys of each kind, as many as the share of a kind may still need.

    When there are too many, the largest kind loses its last. Its bound then keeps all out that come after
    what was lost, so that what is kept of a kind are always the first of all that were seen.
    """

    def __init__(self, clips: int) -> None:
        self._clips = clips
        self._kept: dict[Stratum, list[tuple[int, int, Any]]] = {}  # heaps, the largest key first
        self._bounds: dict[Stratum, tuple[int, int]] = {}
        self._count = 0

    def wants(self, stratum: Stratum, place: tuple[int, int]) -> bool:
        """Whether an entry of this (key, index) may be drawn, as far as is known."""
        bound = self._bounds.get(stratum)
        return bound is None or place < bound

    def add(self, stratum: Stratum, place: tuple[int, int], item: Any) -> None:
        """Keep a wanted entry for now."""
        heapq.heappush(self._kept.setdefault(stratum, []), (-place[0], -place[1], item))
        self._count += 1
        if self._count > self._clips + len(self._kept):
            largest = max(self._kept, key=lambda name: len(self._kept[name]))
            key, index, _ = heapq.heappop(self._kept[largest])
            self._bounds[largest] = (-key, -index)
            self._count -= 1

    def taken(self) -> dict[Stratum, list[tuple[int, Any]]]:
        """(index, item) of what is drawn of each kind."""
        shares = equal_shares({name: len(kept) for name, kept in self._kept.items()}, self._clips)
        return {
            name: [(-index, item) for _, index, item in heapq.nlargest(shares[name], kept)]
            for name, kept in self._kept.items()
        }


def _audio_problem(entry: Entry) -> str:
    return entry.outside() or read_header(entry.file)[0]
