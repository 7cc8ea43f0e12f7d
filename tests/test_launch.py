"""Runs of several processes: what one writes, and one message if something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import audiolm_compress
from audiolm_compress.measurement.process import measure
from audiolm_compress.recipe import load_recipe
from audiolm_compress.report import Benchmark, Report
from audiolm_compress.run_data import clip_source

LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
RUN = ("-m", "audiolm_compress", "run")
TEXTS = ("the quick brown fox", "a dog barks while rain falls", "one two three", "birds sing", "six", "rain")


def environment() -> dict[str, str]:
    """This package, on one thread of the CPU."""
    root = str(Path(audiolm_compress.__file__).parents[1])
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def recipe(tmp_path: Path, parity: Path) -> Path:
    """Tiny passes and timing, and two batches of either task, so that shares are not halves."""
    entries = []
    for index, text in enumerate(TEXTS):
        name = f"clip{index}.wav"
        shutil.copy(parity / "llama" / "audio" / f"clip{index // 2 % 2}.wav", tmp_path / name)
        task = ("asr", "audiocaption")[index % 2]
        entries.append({"path": name, "text": text, "task": task, "testset_id": name})
    clips = tmp_path / "clips.json"
    clips.write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    content: dict[str, Any] = {
        "name": "small",
        "baseline": str(parity / "llama" / "config.yaml"),
        "data": {"calibration": str(clips), "test": str(clips)},
        "passes": [{"pass": "merge_lora"}, {"pass": "gptq", "bits": 4, "group_size": 32, "batch_size": 2}],
        "benchmark": {
            "batch_size": 2,
            "decode": {"asr": {"max_new_tokens": 4}, "aac": {"max_new_tokens": 4}},
            "latency": {"clips": 1, "warmup": 0, "transformers": False},
            "noise_protocol": {"warmup": 0, "iterations": 1},
        },
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.mark.slow
def test_two_processes_write_one_folder_with_the_answers_of_one(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "small"
    command = [sys.executable, *LAUNCH, *RUN, str(recipe), "--out", str(out), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Saved in") == 1
    assert done.stderr.count("candidate: loading the model") == 1
    assert [path.name for path in out.parent.iterdir()] == ["small"]

    report = Report.from_json((out / "report.json").read_text(encoding="utf-8"))
    assert [step.name for step in report.steps] == ["merge_lora", "gptq"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as there: sums of other orders round otherwise
    checked = load_recipe(recipe)
    alone = measure(checked.baseline, clip_source(checked.data), checked.benchmark)
    assert report.baseline.clips == alone.clips
    assert report.baseline.counts == alone.counts
    assert len({clip.text for clip in alone.clips}) > 1
    for side in (report.baseline, report.candidate):
        assert any("2 processes shared the answers" in note for note in side.notes)


@pytest.mark.slow
def test_a_benchmark_of_two_processes_is_written_once(recipe: Path, tmp_path: Path, parity: Path) -> None:
    model, out = str(parity / "llama" / "config.yaml"), tmp_path / "bench"
    command = [sys.executable, *LAUNCH, "-m", "audiolm_compress", "bench", model, "--out", str(out)]
    command += ["--data", str(recipe.with_name("clips.json")), "--clips", "1", "--runs", "1", "--json", "-"]
    command += ["--batch-size", "2", "--max-clips", "4", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = Benchmark.from_json(done.stdout)
    assert done.stdout == (out / "bench.json").read_text(encoding="utf-8")
    assert len(found.baseline.clips) == 4
    assert any("2 processes shared the answers" in note for note in found.baseline.notes)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [(0, 1), (1,)], ids=["in all", "in one"])
def test_an_error_ends_all_processes_with_one_message(
    recipe: Path, tmp_path: Path, wrong: tuple[int, ...]
) -> None:
    """Without a launcher, which would end the others: each has to find out by itself."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = []
    for rank in (0, 1):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        out = tmp_path / ("taken" if rank in wrong else "free")
        running.append(
            subprocess.Popen(
                [sys.executable, *RUN, str(recipe), "--out", str(out), "--device", "cpu"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment() | place,
            )
        )
    try:
        said = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    errors = "".join(stderr for _, stderr in said)
    assert [process.returncode for process in running] == [2, 2], errors
    assert errors.count("error: ") == errors.count("is not a model folder of ours") == 1
    assert "Traceback" not in errors
    assert not (tmp_path / "free").exists()
