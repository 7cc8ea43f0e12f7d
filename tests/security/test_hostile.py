"""Every kind of hostile file is refused by what reads it: with our error, that names it, and none is run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import PurePosixPath, PureWindowsPath

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import dynamic_module_utils

from audiolm_compress.errors import AudioLMError
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.guarded import CODE_ALLOWED
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.untrusted import OUTSIDE_ALLOWED, escapes

from .conftest import Clean
from .hostile import KINDS
from .hostile.configs import (
    folder_with_code_beside_it,
    llm_with_code_beside_it,
    weights_linked_from_elsewhere,
)


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


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path({place!r}, "executed").touch()

class Config(LlamaConfig):
    model_type = "unheard-of"

class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_code_of_an_llm_is_run_for_those_who_ask(
    clean: Clean, clips: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers as the plain model does, but no folder is made that could not be read without it."""
    plain = load_model(clean.upstream())
    shutil.rmtree(clean.place / "upstream")
    config = llm_with_code_beside_it(clean)
    (config.parent / "llm" / "modeling.py").write_text(CODE.format(place=str(clean.place)))
    with pytest.raises(AudioLMError, match=f"if {CODE_ALLOWED}=1 is set"):
        load_model(config)
    assert not (clean.place / "executed").exists()

    monkeypatch.setenv(CODE_ALLOWED, "1")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(clean.place / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = load_model(config)
    assert (clean.place / "executed").exists()
    assert type(model.causal_lm).__name__ == "Model"
    with torch.inference_mode():
        logits = [one.score(one.prepare(clips, "asr")) for one in (model, plain)]
    assert torch.equal(*logits)
    with pytest.raises(AudioLMError, match="class Model is code of its checkpoint"):
        store.save(model, clean.place / "saved")
    assert not (clean.place / "saved").exists()


def test_a_folder_of_ours_with_code_is_refused_whatever_is_asked(
    clean: Clean, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CODE_ALLOWED, "1")
    with pytest.raises(AudioLMError, match="code of a checkpoint is never run"):
        load_model(folder_with_code_beside_it(clean))


def test_the_links_of_a_hub_cache_are_its_own(clean: Clean) -> None:
    blobs, snapshot = clean.place / "models--a--b" / "blobs", clean.place / "models--a--b" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(clean.folder().iterdir()):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    load_model(snapshot)
