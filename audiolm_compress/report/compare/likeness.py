"""What runs that stand in one table do not have in common, and what may therefore not be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.report.compare.run import Run

_NAMES = 4  # of runs that are listed


@dataclass(frozen=True)
class Aspect:
    """Something that runs may differ in.

    Attributes:
        title: what differs, plural.
        read: it, in few words; "" where it takes too many, then the runs alone are named.
        key: tells whether two are the same; None: by the words.
        so: what follows for the reader.
    """

    title: str
    read: Callable[[Measurements], str]
    so: str
    key: Callable[[Measurements], object] | None = None

    def words(self, run: Run) -> str:
        """What the run has of it."""
        return self.read(run.side)

    def identity(self, run: Run) -> object:
        """Equal for runs that do not differ."""
        return (self.key or self.read)(run.side)


def clips_key(side: Measurements) -> object:
    """Equal where the same clips were scored against the same references."""
    data = side.environment.get("data") or {}
    clips = tuple((clip.testset_id, clip.task, clip.references) for clip in side.clips)
    return clips, data.get("audio_sha256")


def _environment(name: str) -> Callable[[Measurements], str]:
    return lambda side: str(side.environment.get(name, "not recorded"))


def _machine(side: Measurements) -> str:
    environment = side.environment
    name, device = environment.get("device_name", "unnamed"), environment.get("device", "unknown device")
    return f"{name} ({device})"


def _version(side: Measurements) -> str:
    version, commit = side.environment.get("audiolm_compress"), side.environment.get("commit")
    digest, _, changes = (commit or "not recorded").partition("+")
    return f"{version or 'not recorded'}, commit {digest[:12]}{' with changes' if changes else ''}"


def _packages(side: Measurements) -> object:
    return tuple(sorted((side.environment.get("packages") or {}).items()))


def _protocols(side: Measurements) -> str:
    return f"{side.clips_latency.protocol}; {side.noise_latency.protocol}"


_TIMES = "compare the ratios of times and peak memory, not these themselves"
ASPECTS = (
    Aspect("machines", _machine, _TIMES),
    Aspect("CPU threads", _environment("threads"), _TIMES),
    Aspect("versions of audiolm_compress", _version, "what is measured may have changed in between"),
    Aspect("versions of packages", lambda _: "", "kernels and answers may differ", _packages),
    Aspect("timing protocols", _protocols, _TIMES),
    Aspect("ways to count peak memory", lambda side: side.memory.method, "compare the ratios of peak memory"),
    Aspect(
        "decode settings",
        lambda _: "",
        "scores and times show these as well as the compression",
        lambda side: json.dumps(side.decode, sort_keys=True, default=str),
    ),
    Aspect("seeds", _environment("seed"), "noise, sampling and intervals differ"),
)


def same_clips(runs: Sequence[Run]) -> bool:
    """Whether scores may be compared between runs."""
    return len({clips_key(run.side) for run in runs}) <= 1


def same_baseline(runs: Sequence[Run]) -> bool:
    """Whether ratios say what a model costs, and not only what its run gained."""
    return len({_baseline_key(run) for run in runs}) <= 1


def _baseline_key(run: Run) -> object:
    return run.against.source, run.against.weight_bytes


def differing(runs: Sequence[Run]) -> Iterator[str]:
    """A line for all that runs differ in, and one for those whose times were disturbed."""
    if not same_clips(runs):
        groups = _grouped(runs, lambda run: f"{len(run.side.clips)} clips", lambda run: clips_key(run.side))
        yield (
            f"test clips differ: {groups}: scores are not comparable between runs; each run's difference "
            "from its own baseline holds for its clips"
        )
    if not same_baseline(runs):
        groups = _grouped(runs, lambda run: run.against.source, _baseline_key)
        yield (
            f"baselines differ: {groups}: a ratio says what a run gained, not which model is smaller or "
            "faster"
        )
    for aspect in ASPECTS:
        if groups := _grouped(runs, aspect.words, aspect.identity):
            yield f"{aspect.title} differ: {groups}: {aspect.so}"
    if disturbed := [run for run in runs if _was_disturbed(run.side) or _was_disturbed(run.against)]:
        yield f"the machine was busy, hot or unsteady while times were taken of: {_listed(disturbed)}"


def _was_disturbed(side: Measurements) -> bool:
    """All notes of ``measurement.disturbance`` begin so."""
    return any(note.startswith("the machine ") for note in side.notes)


def _listed(runs: Sequence[Run]) -> str:
    named = ", ".join(run.name for run in runs[:_NAMES])
    return named if len(runs) <= _NAMES else f"{named} and {len(runs) - _NAMES} more"


def _grouped(runs: Sequence[Run], words: Callable[[Run], str], key: Callable[[Run], object]) -> str:
    """Runs that have something in common, with what that is; "" if all have."""
    groups: dict[object, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    if len(groups) < 2:
        return ""
    told = []
    for members in groups.values():
        named = _listed(members)
        said = words(members[0])
        told.append(f"{said} ({named})" if said else f"({named})")
    return " / ".join(told)
