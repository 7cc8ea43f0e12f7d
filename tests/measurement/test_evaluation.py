"""Upstream's evaluation: the answers of its own code, kept as they come."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audiolm_compress.cli import _run, cli
from audiolm_compress.errors import AudioLMError, DataError
from audiolm_compress.measurement.answer_file import read_answers
from audiolm_compress.measurement.evaluation import EvaluationSettings, evaluate, load_clips
from audiolm_compress.passes.base import Silent
from audiolm_compress.salmonn.load import TINY
from audiolm_compress.salmonn.model import Salmonn

ONE_BY_ONE = EvaluationSettings(batch_size=1, decode={"num_beams": 1, "max_new_tokens": 6})


class Stopped(Silent):
    """A user who presses Ctrl-C after some batches."""

    def __init__(self, batches: int) -> None:
        self._left = batches

    def advance(self, steps: int = 1) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def test_file_of_answers_equals_upstreams(parity: Path, tmp_path: Path) -> None:
    """Byte by byte that which upstream's evaluation wrote, from the clips that its config names."""
    out = tmp_path / "answers.csv"
    arguments = ["--mode", "submission_aac", "--out", str(out), "--set", "batch_size=2", "--device", "cpu"]
    assert _run(["evaluate", str(parity / "llama" / "config.yaml"), *arguments]) == 0
    assert out.read_bytes() == (parity / "llama" / "eval_submission.csv").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]  # the partial file has gone


def test_answers_with_attention_capping_equal_upstreams(
    parity: Path, small_model: Callable[[str], Salmonn], tmp_path: Path
) -> None:
    """The Gemma set's CSV was written without the capping that Gemma-2 has; the ids with it are known."""
    folder, model = parity / "gemma", small_model("gemma")
    clips = load_clips((str(folder / "ann.json"),), str(folder / "audio"), "submission_aac")
    found = evaluate(model, clips, EvaluationSettings(batch_size=2), tmp_path / "x", Silent())
    expected = json.loads((folder / "expected.json").read_text())["evaluate_generate_eager"]["beams4"]
    texts = model.texts(torch.tensor(expected), model.decode_settings("audiocaption"))
    assert [text for _, text in found.answers] == [text.lower() for text in texts]


def test_an_evaluation_goes_on_where_it_was_cut_off(
    parity: Path, small_model: Callable[[str], Salmonn], tmp_path: Path
) -> None:
    folder, stem = parity / "llama", tmp_path / "out" / "valid_aac"
    clips = load_clips((str(folder / "ann.json"),), str(folder / "audio"), "valid_aac")
    whole = evaluate(small_model("llama"), clips, ONE_BY_ONE, tmp_path / "whole", Silent())
    assert whole.kept == 0
    with pytest.raises(KeyboardInterrupt):
        evaluate(small_model("llama"), clips, ONE_BY_ONE, stem, Stopped(1))
    (partial,) = stem.parent.iterdir()
    partial.write_text(partial.read_text() + '["t1", "half a l')  # as a killed process leaves it
    again = evaluate(small_model("llama"), clips, ONE_BY_ONE, stem, Silent())
    assert (again.kept, again.partial) == (1, partial)
    assert again.answers == whole.answers
    assert evaluate(small_model("llama"), clips, ONE_BY_ONE, stem, Silent()).kept == 2
    again.write(tmp_path / "answers.csv")
    rows, problems = read_answers(tmp_path / "answers.csv")
    assert problems == [] and not partial.exists()
    assert tuple((row.testset_id, row.text) for row in rows) == whole.answers


@pytest.mark.slow
def test_interrupting_says_how_to_go_on(parity: Path, tmp_path: Path) -> None:
    model = str(parity / "llama" / "config.yaml")
    command = [sys.executable, "-m", "audiolm_compress", "evaluate", model, "--mode", "valid_aac"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # Where the tests run in the background of a shell, children would inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert "loading the model" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    shown, rest = process.communicate(timeout=300)
    assert process.returncode == 130 and shown == ""
    assert rest.strip().endswith("interrupted; answers so far are kept, the same command goes on")
    assert "Traceback" not in rest


@pytest.mark.parametrize("change", ["decode", "prompt", "weights", "clip"])
def test_answers_under_other_settings_are_not_taken(
    change: str, parity: Path, small_model: Callable[[str], Salmonn], tmp_path: Path
) -> None:
    folder, model, settings = parity / "llama", small_model("llama"), ONE_BY_ONE
    clips = load_clips((str(folder / "ann.json"),), str(folder / "audio"), "valid_aac")
    evaluate(model, clips, settings, tmp_path / "x", Silent())
    if change == "decode":
        settings = EvaluationSettings(batch_size=1, decode={"num_beams": 1, "max_new_tokens": 7})
    elif change == "prompt":
        model.prompts = model.prompts.worded(["audiocaption"], "{}", "What is heard?<SpeechHere>")
    elif change == "weights":
        with torch.no_grad():
            model.connector.projection.bias[0] += 1
    else:
        clips[0].waveform[0] += 0.5
    assert evaluate(model, clips, settings, tmp_path / "x", Silent()).kept == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_clips_of_a_mode(tmp_path: Path) -> None:
    """Those of its task; a submission needs ids and no references, a validation both."""
    test = (str(TINY / "data" / "test.json"),)
    assert len(load_clips(test, None, "valid_asr")) == 65
    assert {clip.task for clip in load_clips(test, None, "valid_aac")} == {"audiocaption_v2"}
    clip = next((TINY / "data").rglob("*.flac"))
    shutil.copy(clip, tmp_path / "a.flac")
    file = tmp_path / "test.json"

    def write(**entry: str) -> tuple[str]:
        file.write_text(json.dumps({"annotation": [{"path": "a.flac", **entry}]}), encoding="utf-8")
        return (str(file),)

    (only,) = load_clips(write(testset_id="t0"), None, "submission_asr")
    assert (only.id, only.text, only.references) == ("t0", "", ())
    with pytest.raises(DataError, match="no 'text'"):
        load_clips(write(testset_id="t0"), None, "valid_asr")
    with pytest.raises(DataError, match="no 'testset_id'"):
        load_clips(write(text="a"), None, "submission_asr")
    with pytest.raises(
        DataError, match="mode submission_aac answers clips of task aac, found only tasks asr"
    ):
        load_clips(write(testset_id="t0"), None, "submission_aac")


def test_wrong_settings_are_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", "tiny", "--mode", "valid_asr", "--out", str(tmp_path / "a.csv")]
    assert _run([*command, "--set", "decode.beams=4"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert _run([*command, "--set", "decode.num_beams=0"]) == 2
    assert _run([*command, "--data", str(tmp_path / "gone.json")]) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(AudioLMError, match="in one process"):
        cli.main(command, standalone_mode=False)
    assert list(tmp_path.iterdir()) == []
