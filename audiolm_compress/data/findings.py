"""What an audit found: counts, distributions and findings, of a size that does not grow with the data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from audiolm_compress.data.repeats import Shared
from audiolm_compress.data.tally import Tally

OTHERS = "others"


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong.

    Attributes:
        annotation: the file.
        index: of the entry, from 0.
        path: as the entry has it, cut and escaped so that a terminal can show it; empty where it has none.
        kind: such as ``missing file``; what findings are counted by.
        detail: what was found.
    """

    annotation: str
    index: int
    path: str
    kind: str
    detail: str = ""


@dataclass
class Group:
    """Entries of one source and task, and the different files that they name."""

    entries: int = 0
    files: int = 0
    file_seconds: float = 0.0
    seconds: Tally = field(default_factory=Tally)
    words: Tally = field(default_factory=Tally)


@dataclass
class Part:
    """One annotation.

    Attributes:
        name: its path.
        entries: all, also those that cannot be used.
        files: different ones that they name.
        file_seconds: of these, as far as their length is known.
        seconds: lengths of the entries' clips, where known.
        words: of all reference texts.
        rates: entries by samples a second of their clip.
        channels: entries by number of channels of their clip.
        groups: by (source, task).
        findings: number of each kind.
    """

    name: str
    entries: int = 0
    files: int = 0
    file_seconds: float = 0.0
    seconds: Tally = field(default_factory=Tally)
    words: Tally = field(default_factory=Tally)
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    findings: Counter[str] = field(default_factory=Counter)


@dataclass
class Audit:
    """Everything that was found.

    Attributes:
        parts: one for each annotation.
        leaks: by kind, what annotations share; each two that share something.
        examples: the first findings of each kind.
        notes: what the figures do not tell.
    """

    parts: list[Part]
    leaks: dict[str, list[Shared]] = field(default_factory=dict)
    examples: dict[str, list[Finding]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
