"""Training that is killed, and training in two processes: the weights are those of one quiet run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

import audiolm_compress
from audiolm_compress.cli import cli
from audiolm_compress.salmonn.checkpoint import read_checkpoint

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
        settings, validate = programs.KILLED.model_copy(update={"save_every": 0}), programs.validate
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


@pytest.mark.slow
def test_calibration_is_shared_by_processes(tmp_path: Path, programs: ModuleType) -> None:
    run(*LAUNCH, str(PROGRAMS), "calibrated", str(tmp_path))
    model, figures = programs.quantised()
    expected = programs.unpacked(model)
    ends = [json.loads((tmp_path / f"end{index}.json").read_text()) for index in (0, 1)]
    weights = [load_file(tmp_path / f"end{index}.safetensors") for index in (0, 1)]
    assert ends[0] == ends[1]
    assert ends[0]["processes"] == 2
    assert ends[0]["before"] == pytest.approx(figures["before"], rel=1e-5)
    assert ends[0]["after"] == pytest.approx(figures["after"], rel=0.02)
    assert ends[0]["error"] == pytest.approx(figures["error"], rel=0.02)
    assert weights[0].keys() == weights[1].keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(weights[0][name], weights[1][name]), name
        # Sums of another order round otherwise, and a weight on the edge between two codes falls to either.
        near = torch.isclose(weights[0][name], weight, rtol=1e-3, atol=1e-5)
        assert near.float().mean() > 0.95, name


@pytest.mark.slow
def test_the_command_in_two_processes(tmp_path: Path, parity: Path) -> None:
    """Two processes of two clips a batch, and one that takes two such batches a step."""
    folder = Path(shutil.copytree(parity / "llama", tmp_path / "llama"))
    texts = ("one", "two three", "four birds sing", "a car passes by and a dog barks", "six")
    entries = [
        {"path": f"clip{index % 2}.wav", "text": text, "task": "asr"} for index, text in enumerate(texts)
    ]
    (folder / "train.json").write_text(json.dumps({"annotation": entries}))
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["datasets"] = {
        "prefix": "audio",
        "train_ann_path": "train.json",
        "valid_ann_path": "train.json",
    }
    optims = {"max_epoch": 2, "init_lr": 3e-3, "min_lr": 1e-3, "warmup_start_lr": 1e-4}
    content["run"] = {"batch_size_train": 2, "batch_size_eval": 2, "device": "cpu", "log_freq": 1}
    ends = {}
    for name, batches in (("two", 2), ("one", 4)):
        content["run"] |= {
            "output_dir": str(tmp_path / name),
            "iters_per_epoch": batches,
            "accum_grad_iters": batches // 2,
            "optims": {**optims, "warmup_steps": batches},
        }
        (folder / "train.yaml").write_text(yaml.safe_dump(content))
        if name == "two":
            run(*LAUNCH, "-m", "audiolm_compress", "train", str(folder / "train.yaml"))
        else:
            assert CliRunner().invoke(cli, ["train", str(folder / "train.yaml")]).exit_code == 0
        curve = json.loads((tmp_path / name / "state" / "curve.json").read_text())
        ends[name] = (curve, read_checkpoint(tmp_path / name / "checkpoint_best.pth"))
    assert len(ends["one"][0]) == 6
    for two, one in zip(ends["two"][0], ends["one"][0], strict=True):
        two.pop("seconds", None)
        assert two == pytest.approx({key: one[key] for key in two}, rel=1e-4)
    # With one query token the softmax of self-attention is 1, and key biases never change a softmax: these
    # gradients are zero but for rounding, of which AdamW makes whole steps.
    idle = re.compile(r"\.attention\.self\.(query|key)\.|\.crossattention\.self\.key\.bias$")
    compared = {name: tensor for name, tensor in ends["one"][1].items() if not idle.search(name)}
    assert len(compared) > 50
    for name, tensor in compared.items():
        torch.testing.assert_close(ends["two"][1][name], tensor, rtol=1e-3, atol=2e-5)
