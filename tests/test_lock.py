"""``constraints.txt`` is current: it pins all that the tests install, in versions that everybody accepts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

tomllib = pytest.importorskip("tomllib")  # in Python 3.10 there is none; CI's is newer

ROOT = Path(__file__).parents[1]
NAME = "audiolm-compress"
INSTALLED = ("test",)  # the extras that .ci/run installs


def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def own(extra: str | None = None) -> list[Requirement]:
    """What pyproject.toml asks for, by itself or for one of its extras."""
    content = project()
    return [
        Requirement(line)
        for line in (content["dependencies"] if extra is None else content["optional-dependencies"][extra])
    ]


def needed(requirement: Requirement) -> Iterator[Requirement]:
    """What a requirement asks for in its turn, here and with its extras, by the metadata of the installed."""
    if canonicalize_name(requirement.name) == NAME:
        for extra in requirement.extras:
            yield from own(extra)
        return
    for line in requires(requirement.name) or ():
        further = Requirement(line)
        extras = requirement.extras or {""}
        if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
            yield further


def test_every_installed_package_is_pinned_as_all_who_need_it_accept() -> None:
    pinned, seen = pins(), set()
    problems = set()
    waiting = [(requirement, "pyproject.toml") for extra in (None, *INSTALLED) for requirement in own(extra)]
    while waiting:
        requirement, asked_by = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name != NAME and name not in pinned:
            problems.add(f"{asked_by} needs {name}, which has no pin")
        elif name != NAME and not requirement.specifier.contains(pinned[name], prereleases=True):
            problems.add(f"{asked_by} needs {requirement}, but the pin is {pinned[name]}")
        if (key := (name, frozenset(requirement.extras))) not in seen:
            seen.add(key)
            waiting += [(further, name) for further in needed(requirement)]
    assert sorted(problems) == []


@pytest.mark.parametrize("extra", sorted(project()["optional-dependencies"]))
def test_pins_lie_in_the_ranges_of_extras(extra: str) -> None:
    """Of those too whose packages the tests do not install."""
    pinned = pins()
    for requirement in own(extra):
        if (version := pinned.get(canonicalize_name(requirement.name))) is not None:
            assert requirement.specifier.contains(version, prereleases=True), requirement
