"""Whether the installed packages are those that this one asks for, by its own installed metadata."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from audiolm_compress.doctor.finding import Finding

DISTRIBUTION = "audiolm-compress"
EXTRAS = {
    "search": "`search` cannot run",
    "loggers": "run.log_with of `train` writes no TensorBoard or W&B logs",
    "onnx": "`export --to onnx` cannot run",
    "benchmarks": "the scripts in benchmarks/ draw no plots",
}


def required() -> Finding:
    """All packages without which nothing runs."""
    try:
        wanted = [one for one in map(Requirement, requires(DISTRIBUTION) or ()) if _asked_for(one, "")]
    except PackageNotFoundError:
        return Finding(
            "packages",
            "missing",
            "audiolm-compress itself is not installed, but run from a folder",
            "versions of packages cannot be checked",
            "pip install -c constraints.txt .",
        )
    unfit = [found for one in wanted if (found := _unfit(one))]
    if not unfit:
        return Finding("packages", "ok", f"{len(wanted)} packages, all in the ranges asked for")
    remedy = "pip install -c constraints.txt --upgrade ."
    return Finding("packages", "problem", "; ".join(unfit), "nothing may run", remedy, essential=True)


def extras() -> Iterator[Finding]:
    """Packages that some commands need."""
    try:
        everything = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return
    for extra, cost in EXTRAS.items():
        wanted = [one for one in everything if _asked_for(one, extra) and not _asked_for(one, "")]
        unfit = [found for one in wanted if (found := _unfit(one))]
        if not wanted:
            unfit = ["the installed metadata does not know it, so it is of another version"]
        if unfit:
            remedy = f"pip install -c constraints.txt '.[{extra}]'"
            yield Finding(f"extra {extra}", "missing", "; ".join(unfit), cost, remedy)
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(f"{o.name} {version(o.name)}" for o in wanted))


def _asked_for(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _unfit(requirement: Requirement) -> str:
    """What is wrong with an installed package; "" if nothing is."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} {found}, asked for {requirement.specifier}"
