"""Every kind of hostile file is refused by what reads it: with our error, that names it, and none is run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiolm_compress.errors import AudioLMError
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.untrusted import OUTSIDE_ALLOWED, escapes

from .conftest import Clean
from .hostile import KINDS, weights_linked_from_elsewhere


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 25


@pytest.mark.parametrize("name", KINDS)
def test_a_hostile_file_is_refused(
    name: str, clean: Clean, bounded: Callable[[], AbstractContextManager[None]]
) -> None:
    kind = KINDS[name]
    made = kind.make(clean)
    with bounded(), pytest.raises(AudioLMError, match=kind.reason):
        kind.read(made)
    assert not (clean.place / "executed").exists()


@given(st.text(st.sampled_from("a./\\:\0 C"), max_size=8))
def test_paths_that_stay_are_those_of_pathlib(name: str) -> None:
    """What is let through without parsing is what parsing lets through."""
    kinds = PurePosixPath(name), PureWindowsPath(name)
    leaves = "\0" in name or any(kind.anchor or ".." in kind.parts for kind in kinds)
    assert bool(escapes(name)) == leaves


def test_the_clean_files_are_read(clean: Clean) -> None:
    """What the hostile ones were made from: only what was changed in them is refused."""
    load_model(clean.folder())
    load_model(clean.upstream())


def test_a_link_of_ones_own_can_be_allowed(clean: Clean, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OUTSIDE_ALLOWED, "1")
    load_model(weights_linked_from_elsewhere(clean))


def test_the_links_of_a_hub_cache_are_its_own(clean: Clean) -> None:
    blobs, snapshot = clean.place / "models--a--b" / "blobs", clean.place / "models--a--b" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(clean.folder().iterdir()):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    load_model(snapshot)
