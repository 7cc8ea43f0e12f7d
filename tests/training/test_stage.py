"""``audiolm-compress train``: both stages, what they write, how they go on, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

import audiolm_compress
from audiolm_compress.cli import cli
from audiolm_compress.errors import AudioLMError, DataError
from audiolm_compress.salmonn.checkpoint import read_checkpoint
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.prompts import AUDIO_FRAME
from audiolm_compress.training.stage import BEST
from audiolm_compress.training.stage_config import stage_config
from audiolm_compress.training.stage_model import MODEL, ORIGIN

RUN = {
    "seed": 42,
    "epoch_based": False,
    "iters_per_epoch": 2,
    "accum_grad_iters": 1,
    "batch_size_train": 2,
    "batch_size_eval": 2,
    "num_workers": 8,
    "device": "cpu",
    "use_distributed": True,
    "amp": False,
    "evaluate": False,
    "log_freq": 1,
    "optims": {
        "max_epoch": 2,
        "warmup_steps": 2,
        "warmup_start_lr": "1e-6",  # as PyYAML reads upstream's 1e-6
        "init_lr": 3e-3,
        "min_lr": 1e-3,
        "weight_decay": 0.05,
        "beta2": 0.999,
    },
}


EPOCHS = ("--set", "run.epoch_based=true", "--set", "run.iters_per_epoch=null")


@pytest.fixture
def folder(tmp_path: Path, parity: Path) -> Path:
    """A small model of upstream's with clips and a config for training it; two prompts a task."""
    folder = Path(shutil.copytree(parity / "llama", tmp_path / "llama"))
    clips = [
        {"path": "clip0.wav", "text": "birds sing and a car passes by", "task": "audiocaption"},
        {"path": "clip1.wav", "text": "one two three", "task": "asr"},
        {"path": "clip1.wav", "text": "two", "task": "QA", "Q": "Which number {} is even?"},
    ]
    (folder / "train.json").write_text(json.dumps({"annotation": clips}))
    (folder / "valid.json").write_text(json.dumps({"annotation": clips[:2]}))
    prompts = json.loads((folder / "prompts" / "train_prompt.json").read_text())
    prompts["asr"].append(f"{AUDIO_FRAME}What is said?")
    prompts["QA"] = [f"{AUDIO_FRAME}{{}}"]
    (folder / "prompts" / "train_prompt.json").write_text(json.dumps(prompts))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["run"] = RUN
    config["datasets"] = {
        "prefix": "audio",
        "train_ann_path": "train.json",
        "valid_ann_path": "valid.json",
        "test_ann_path": "ann.json",
        "whisper_path": "whisper",
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    return folder


def command(*arguments: object) -> str:
    done = CliRunner().invoke(cli, ["train", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)


@pytest.mark.slow
def test_both_stages_and_what_they_write(folder: Path, tmp_path: Path) -> None:
    one, two, cache = tmp_path / "stage1", tmp_path / "stage2", tmp_path / "cache"
    output = command(folder / "train.yaml", "--set", "model.ckpt=", "--out", one, "--feature-cache", cache)
    assert "run.num_workers, run.use_distributed" in output
    assert "datasets.test_ann_path" in output
    assert "connector" in output and "LoRA" in output
    assert "2 computed" in output  # three entries of two clips, in all epochs
    content = torch.load(one / "checkpoint_1.pth", weights_only=True)
    assert sorted(content) == ["config", "epoch", "model", "optimizer", "scaler"]
    assert content["epoch"] == 1
    assert content["config"]["run"]["optims"]["max_epoch"] == 2
    assert "token" not in content["config"]["model"]
    assert (one / "checkpoint_0.pth").exists()
    best = tensors(one / "checkpoint_best.pth")
    assert best["speech_query_tokens"].shape == (1, 1, 768)  # a fresh Q-Former is a bert-base

    ckpt = f"model.ckpt={one / 'checkpoint_best.pth'}"
    output = command(folder / "train.yaml", "--set", ckpt, "--out", two, "--feature-cache", cache)
    assert ", 0 computed" in output
    begun, ended = best, tensors(two / "checkpoint_1.pth")
    assert begun.keys() == ended.keys()
    assert all(torch.isfinite(tensor).all() for tensor in ended.values())
    assert sum(not torch.equal(begun[name], ended[name]) for name in begun) > 60

    (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace("salmonn.pth", str(two / "checkpoint_best.pth"))
    )
    loaded, saved = load_model(folder / "config.yaml"), load_model(two / "model")
    states = loaded.state_dict()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, states[name]), name


@pytest.mark.slow
def test_a_killed_training_goes_on(folder: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command(folder / "train.yaml", "--out", whole)
    root = str(Path(audiolm_compress.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    program = [
        sys.executable,
        "-m",
        "audiolm_compress",
        "train",
        str(folder / "train.yaml"),
        "--out",
        str(cut),
    ]
    process = subprocess.Popen(program, env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if (cut / "checkpoint_0.pth").exists():
            process.kill()
            process.wait()
    assert not (cut / "checkpoint_best.pth").exists()
    command(folder / "train.yaml", "--out", cut)
    first, second = (tensors(out / "checkpoint_1.pth") for out in (whole, cut))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    with pytest.raises(DataError, match=r"differs in run.optims.init_lr"):
        command(folder / "train.yaml", "--out", cut, "--set", "run.optims.init_lr=0.1")


def test_wrong_configs_are_refused_whole(folder: Path) -> None:
    content = yaml.safe_load((folder / "train.yaml").read_text())
    content["run"] |= {"batch_size": 4, "evaluate": True, "accum_grad_iters": 0}
    content["run"]["optims"] = {**RUN["optims"], "warmup_step": 3}  # type: ignore[dict-item]
    content["model"] |= {"freeze_whispr": True, "freeze_beats": "flase", "lora_rank": 0}
    content["generate"] = {"num_bemas": 2}
    content["dataset"] = {}
    with pytest.raises(DataError) as error:
        stage_config(content, folder / "train.yaml")
    message = str(error.value)
    for part in (
        "unknown key run.batch_size; did you mean batch_size_eval",
        "unknown key run.optims.warmup_step; did you mean warmup_steps",
        "unknown key model.freeze_whispr; did you mean freeze_whisper",
        "unknown section 'dataset'",
        "unknown key generate.num_bemas; did you mean num_beams",
        "model.freeze_beats: Input should be a valid boolean, found 'flase'",
        "model.lora_rank: Input should be greater than or equal to 1, found 0",
        "run.accum_grad_iters: Input should be greater than or equal to 1, found 0",
    ):
        assert part in message
    with pytest.raises(DataError, match="use `audiolm-compress bench`"):
        command(folder / "train.yaml", "--set", "run.evaluate=true")
    with pytest.raises(
        DataError, match=r"run\.feature_cache_gib limits the folder run\.feature_cache, which is"
    ):
        command(folder / "train.yaml", "--set", "run.feature_cache_gib=3")
    with pytest.raises(DataError, match=r"run\.iters_per_epoch is missing"):
        command(folder / "train.yaml", "--set", "run.iters_per_epoch=null")


def test_unusable_data_stops_before_any_work(folder: Path, tmp_path: Path) -> None:
    (folder / "audio" / "clip0.wav").write_bytes(b"no audio")
    with pytest.raises(
        DataError, match=r"1 of 3 audio files cannot be used:\n.*clip0.wav: cannot be decoded"
    ):
        command(folder / "train.yaml", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_of_something_else_are_left_alone(folder: Path, tmp_path: Path) -> None:
    file, full, other = tmp_path / "file", tmp_path / "full", tmp_path / "other"
    file.touch()
    full.mkdir()
    (full / BEST).write_text("of another program")
    (other / MODEL).mkdir(parents=True)
    (other / ORIGIN).write_text("{}")
    (other / MODEL / "thesis.tex").touch()
    for out in (file, full, other):
        with pytest.raises(AudioLMError, match=f"output {out}.* is left alone"):
            command(folder / "train.yaml", "--out", out)
    assert (full / BEST).read_text() == "of another program"


def test_what_failed_before_its_first_checkpoint_may_be_changed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="an epoch has 1 batches"):
        command(folder / "train.yaml", "--out", out, *EPOCHS, "--set", "run.accum_grad_iters=2")
    optims = f"run.optims={json.dumps({'max_epoch': 1, 'init_lr': 1e30})}"
    with pytest.raises(DataError, match="score is no number"):
        command(folder / "train.yaml", "--out", out, *EPOCHS, "--set", optims)
    output = command(folder / "train.yaml", "--out", out, *EPOCHS, "--set", "run.batch_size_train=8")
    assert "batches of 3 clips in place of 8" in output


def test_validation_tasks_without_prompts_stop_before_any_work(folder: Path, tmp_path: Path) -> None:
    clip = {"path": "clip1.wav", "text": "two", "task": "counting"}
    (folder / "valid.json").write_text(json.dumps({"annotation": [clip]}))
    with pytest.raises(DataError, match="counting"):
        command(folder / "train.yaml", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tasks_without_prompts_are_named(folder: Path, tmp_path: Path) -> None:
    prompts = json.loads((folder / "prompts" / "train_prompt.json").read_text())
    del prompts["QA"], prompts["asr"]
    (folder / "prompts" / "train_prompt.json").write_text(json.dumps(prompts))
    with pytest.raises(
        DataError, match="no training prompt for task QA, asr; there are some for audiocaption"
    ):
        command(folder / "train.yaml", "--out", tmp_path / "out")


def test_cached_states_need_frozen_encoders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="freeze_whisper"):
        arguments = ("--set", "model.freeze_whisper=false", "--feature-cache", tmp_path / "cache")
        command(folder / "train.yaml", "--out", tmp_path / "out", *arguments)
