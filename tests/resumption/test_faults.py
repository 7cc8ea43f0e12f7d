"""Faults of the machine and of its user: each is told in words, and costs nothing that was there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from audiolm_compress.cli import _run
from audiolm_compress.errors import AudioLMError, MachineError
from audiolm_compress.faults import explained
from audiolm_compress.kept_stages import stages_of
from audiolm_compress.passes.base import Silent
from audiolm_compress.pipeline import apply_recipe
from audiolm_compress.recipe import load_recipe
from audiolm_compress.recipe_steps import at_pass
from audiolm_compress.report import Step
from audiolm_compress.run_output import check_output
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn

MERGE = load_recipe({"name": "mine", "passes": [{"pass": "merge_lora"}, {"pass": "cache_prompt"}]})


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk(small_model: Callable[[str], Salmonn], tmp_path: Path) -> None:
    step = Step("merge_lora", {}, True, "", {}, [], [], 1.0, {})
    with small_disk(tmp_path / "disk", "512k") as disk:
        (disk / "former").mkdir()
        (disk / "former" / "config.json").write_text("{}")
        with (
            pytest.raises(MachineError, match=r"no room to write .*former.* MiB are free\); make room"),
            stages_of(disk / "former", True, Silent()) as stages,
        ):
            stages.keep(["a", "b"], [step], small_model("llama"))
        assert [str(path.relative_to(disk)) for path in disk.rglob("*")] == ["former", "former/config.json"]


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(MachineError, match=r"disk.* not accessible \(Read-only file system\)"):
            apply_recipe(MERGE, out=disk / "out" / "mine")


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_memory_that_cannot_be_had(allocate: Callable[[int], object]) -> None:
    with (
        pytest.raises(
            MachineError, match=r"^pass 2 of 2 \(after merge_lora\): cache_prompt: out of memory: "
        ) as caught,
        at_pass(MERGE, 2),
    ):
        allocate(10**15)
    assert "asked for in one piece, where" in str(caught.value)


def test_a_vanished_file(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"gone\.wav is not there .*, or no longer"), explained():
        (tmp_path / "gone.wav").read_bytes()


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explained():
        raise RuntimeError("shapes do not fit")


def test_two_runs_into_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("passes: [{pass: merge_lora}]")
    with stages_of(tmp_path / "mine", True, Silent()):
        assert _run(["run", str(recipe), "--out", str(tmp_path / "mine")]) == 2
        told = capsys.readouterr().err
        assert "mine is being written by process " in told
        assert "wait until it has ended" in told
    with stages_of(tmp_path / "mine", True, Silent()):
        pass


def test_results_that_are_left_alone(small_model: Callable[[str], Salmonn], tmp_path: Path) -> None:
    folder = store.save(small_model("llama"), tmp_path / "model")
    with pytest.raises(AudioLMError, match="a model that no recipe made"):
        check_output(folder, MERGE, replace=False)
    (folder / "recipe.yaml").write_text(MERGE.model_copy(update={"name": "other"}).to_yaml())
    with pytest.raises(AudioLMError, match="holds the result of the recipe 'other', this one is 'mine'"):
        check_output(folder, MERGE, replace=False)
    check_output(folder, MERGE, replace=True)
    (folder / "recipe.yaml").write_text(MERGE.to_yaml())
    check_output(folder, MERGE, replace=False)
    with pytest.raises(AudioLMError, match="is the baseline itself"):
        check_output(folder, MERGE.model_copy(update={"baseline": str(folder)}), replace=True)
