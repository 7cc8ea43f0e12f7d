"""Clean files of every kind, to be made hostile; and the bounds that reading them must keep."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.upstream import load_upstream

PARITY = Path(__file__).parents[1] / "fixtures" / "upstream_parity" / "llama"
_MORE_MEMORY = 512 * 2**20  # address space that refusing a file may take: the files have some kB
_SECONDS = 60


@dataclass(frozen=True)
class Clean:
    """Makes copies of clean files.

    Attributes:
        place: an empty folder.
        saved: a folder that ``store.save`` wrote.
    """

    place: Path
    saved: Path

    def folder(self) -> Path:
        return Path(shutil.copytree(self.saved, self.place / "model"))

    def upstream(self) -> Path:
        """The YAML of an upstream layout."""
        return Path(shutil.copytree(PARITY, self.place / "upstream")) / "config.yaml"

    def edit(self, file: Path, **entries: Any) -> None:
        """Set entries of a JSON file; ``a__b`` is the entry b of a."""
        content = json.loads(file.read_text(encoding="utf-8"))
        for name, value in entries.items():
            *outer, last = name.split("__")
            node = content
            for key in outer:
                node = node[key]
            node[last] = value
        file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store.save(load_upstream(PARITY / "config.yaml"), tmp_path_factory.mktemp("clean") / "model")


@pytest.fixture
def clean(tmp_path: Path, saved: Path) -> Clean:
    return Clean(tmp_path, saved)


@contextmanager
def _bounded() -> Iterator[None]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def late(*_: object) -> None:
        raise TimeoutError(f"not refused within {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MORE_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def bounded() -> Callable[[], Any]:
    """A context in which little memory can be allocated and nothing takes for ever."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux to bound the memory of a part of a process")
    return _bounded
