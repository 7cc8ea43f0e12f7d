"""Training that is killed, and training in two processes: the weights are those of one quiet run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

import audiolm_compress

PROGRAMS = Path(__file__).parent / "programs.py"
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")


@pytest.fixture(scope="module")
def programs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("programs", PROGRAMS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: str) -> None:
    """A Python program that finds this package and computes on one thread."""
    root = str(Path(audiolm_compress.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_any_moment_ends_bit_by_bit_like_a_quiet_run(tmp_path: Path, programs: ModuleType) -> None:
    run(str(PROGRAMS), "killed", str(tmp_path))
    end = json.loads((tmp_path / "end.json").read_text())
    assert end["kills"] >= 8
    assert end["amid_writing"] >= 1
    assert end["status"] == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as there: sums of other orders round otherwise
    try:
        model = programs.Network(600)
        settings, validate = programs.KILLED, programs.validate
        result = programs.train(model, programs.plan, programs.loss, settings, validate=validate)
    finally:
        torch.set_num_threads(threads)
    assert end["best"] == [result.best, result.best_step]
    ended = load_file(tmp_path / "end.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(ended[name], parameter), name


@pytest.mark.slow
def test_two_processes_equal_one_of_the_same_global_batch(tmp_path: Path, programs: ModuleType) -> None:
    run(*LAUNCH, str(PROGRAMS), "launched", str(tmp_path))
    model = programs.Network()
    settings = programs.LAUNCHED.model_copy(update={"accumulation": 2})
    result = programs.train(model, programs.plan, programs.loss, settings, validate=programs.validate)
    for index in (0, 1):
        end = json.loads((tmp_path / f"end{index}.json").read_text())
        assert end["processes"] == 2
        assert len(end["curve"]) == len(result.curve)
        for found, expected in zip(end["curve"], result.curve, strict=True):
            assert found == pytest.approx({key: expected[key] for key in found}, rel=1e-5)
        ended = load_file(tmp_path / f"end{index}.safetensors")
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(ended[name], parameter.detach(), rtol=1e-5, atol=1e-6)
    # Resumed by one process, the training of two goes on where it was.
    again = programs.Network()
    longer = settings.model_copy(update={"steps": 14})
    programs.train(again, programs.plan, programs.loss, longer, folder=tmp_path, validate=programs.validate)
    assert json.loads((tmp_path / "curve.json").read_text())[-1]["step"] == 14
