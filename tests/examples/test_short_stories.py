"""The short programs of examples/ do what they tell, on a small random model."""

from __future__ import annotations

import importlib.util
import json
import runpy
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from audiolm_compress.report import Report
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

EXAMPLES = Path(__file__).parents[2] / "examples"
STORIES = sorted(file for file in EXAMPLES.glob("*.py") if file.name != "train_tiny.py")
SHORT = [
    "benchmark.max_clips=2",
    "benchmark.batch_size=2",
    "benchmark.decode={asr: {max_new_tokens: 3}, aac: {max_new_tokens: 3}}",
    "benchmark.latency={clips: 1, warmup: 0, transformers: false}",
    "benchmark.noise_protocol={warmup: 0, iterations: 1}",
]

Tell = Callable[..., str]


@pytest.fixture
def tell(
    parity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tell:
    """Runs a program as its reader would, with two clips in place of tiny's; gives what it prints."""
    monkeypatch.chdir(tmp_path)
    entries = []
    for index, task in enumerate(("asr", "audiocaption")):
        shutil.copy(parity / "llama" / "audio" / "clip1.wav", tmp_path / f"{task}.wav")
        entries.append({"path": f"{task}.wav", "text": f"words of clip {index}", "task": task})
    (tmp_path / "clips.json").write_text(json.dumps({"annotation": entries}), encoding="utf-8")

    def run(name: str, *arguments: str, own_clips: bool = False) -> str:
        clips = (
            []
            if own_clips
            else [f"data.{kind}={tmp_path / 'clips.json'}" for kind in ("calibration", "test")]
        )
        baseline = ["--baseline", str(parity / "llama" / "config.yaml")]
        monkeypatch.setattr(sys, "argv", [name, *arguments, *baseline, "--set", *SHORT, *clips])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_stories_are_short_and_listed() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for story in STORIES:
        assert len(story.read_text(encoding="utf-8").splitlines()) < 70, story
        assert f"[{story.name}]({story.name})" in index
    assert {story.stem for story in STORIES} == {"quick_start", "own_data", "search_under_budget", "listen"}


@pytest.mark.slow
def test_quick_start(tell: Tell) -> None:
    told = tell("quick_start.py")
    assert "candidate" in told and "weight_ratio: met" in told
    report = Report.from_json(Path("out/quick_start/report.json").read_text(encoding="utf-8"))
    assert [step.name for step in report.steps] == ["merge_lora", "cast", "quantize_embedding"]
    assert load_model("out/quick_start").causal_lm.dtype == torch.bfloat16


@pytest.mark.slow
def test_own_data(tell: Tell, parity: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for index in range(4):
        shutil.copy(parity / "llama" / "audio" / "clip1.wav", folder / f"clip{index}.wav")
        (folder / f"clip{index}.txt").write_text(f"words of clip {index}\n", encoding="utf-8")
    told = tell("own_data.py", "recordings", own_clips=True)
    report = Report.from_json(Path("out/own_data/report.json").read_text(encoding="utf-8"))
    assert [clip.testset_id for clip in report.candidate.clips] == ["clip0", "clip2"]
    assert "clip2: 'words of clip 2' was heard as" in told
    assert "clip1" in (folder / "calibration.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_search_under_budget(tell: Tell) -> None:
    told = tell("search_under_budget.py", "3", "--trials", "1")
    assert "Pareto front" in told
    assert "audiolm-compress run out/search_under_budget/study/best.yaml --set data.test=tiny" in told
    assert Path("out/search_under_budget/study/best.yaml").is_file()


@pytest.fixture
def listen() -> ModuleType:
    spec = importlib.util.spec_from_file_location("listen", EXAMPLES / "listen.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pair(small_model: Callable[[str], Salmonn]) -> dict[str, Salmonn]:
    models = {name: small_model(name) for name in ("llama", "gemma")}
    for model in models.values():
        model.decode = {"default": model.decode_settings("asr", max_new_tokens=3, num_beams=1)}
    return models


def test_both_models_answer(
    listen: ModuleType, pair: dict[str, Salmonn], parity: Path, clips: list[torch.Tensor]
) -> None:
    file = str(parity / "llama" / "audio" / "clip1.wav")
    for task, name in listen.TASKS.items():
        told = listen.answers(pair, file, task)
        for model, text in zip(pair.values(), told, strict=True):
            said, seconds = text.split("\n\n")
            assert said == model.generate([clips[1]], task=name)[0]
            assert seconds.startswith("(") and seconds.endswith(" s)")
    asked = listen.answers(pair, file, "what is said", " what is this? ")
    expected = [model.generate([clips[1]], prompt="what is this?")[0] for model in pair.values()]
    assert [text.split("\n\n")[0] for text in asked] == expected


def test_what_is_no_clip_is_said(listen: ModuleType, pair: dict[str, Salmonn], tmp_path: Path) -> None:
    assert listen.answers(pair, None, "what is said") == ["first record or upload a clip"] * 2
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    [first, second] = listen.answers(pair, str(broken), "what is said")
    assert first == second and first.startswith(str(broken))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # gradio's own
def test_the_page_answers(
    listen: ModuleType, pair: dict[str, Salmonn], parity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served on this machine, and asked as its button would ask."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    pytest.importorskip("gradio")
    from gradio_client import Client, handle_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = listen.page(pair)
    page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    try:
        file = parity / "llama" / "audio" / "clip1.wav"
        told = Client(f"http://127.0.0.1:{port}", verbose=False).predict(
            handle_file(str(file)), "what is heard", "", api_name="/answers"
        )
    finally:
        page.close()
    expected = listen.answers(pair, str(file), "what is heard")
    assert [text.split("\n\n")[0] for text in told] == [text.split("\n\n")[0] for text in expected]
