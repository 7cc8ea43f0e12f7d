"""A study with real trials: two processes, one of them killed, and what is in the folder in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from audiolm_compress.cli import _run
from audiolm_compress.errors import AudioLMError
from audiolm_compress.recipe import load_recipe
from audiolm_compress.report import Report
from audiolm_compress.search import search_recipe

WANTED = 3


def started(recipe: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, so that killing it takes its measuring process along."""
    command = [sys.executable, "-m", "audiolm_compress", "search", str(recipe), "--out", str(out)]
    options = ["--trials", str(WANTED), "--device", "cpu", "--threads", "1"]
    with log.open("wb") as stream:
        return subprocess.Popen([*command, *options], stdout=stream, stderr=stream, start_new_session=True)


@pytest.mark.slow
def test_two_processes_finish_a_study_though_one_is_killed(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, logs = tmp_path / "study", [tmp_path / "one.log", tmp_path / "two.log"]
    victim, survivor = (started(recipe_file, out, log) for log in logs)
    try:
        while "pass 1 of" not in logs[0].read_text(encoding="utf-8"):  # in the middle of its first trial
            assert victim.poll() is None, logs[0].read_text(encoding="utf-8")
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        assert survivor.wait(timeout=600) == 0, logs[1].read_text(encoding="utf-8")
    finally:
        for process in (victim, survivor):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    said = [log.read_text(encoding="utf-8") for log in logs]
    assert sum(text.count("baseline: loading the model") for text in said) == 1
    found = json.loads((out / "pareto.json").read_text(encoding="utf-8"))
    by_outcome = {
        how: [trial for trial in found["trials"] if trial["outcome"] == how] for how in ("measured", "lost")
    }
    assert len(by_outcome["measured"]) == WANTED
    assert len(by_outcome["lost"]) == 1
    picked = [json.dumps(trial["picked"], sort_keys=True) for trial in by_outcome["measured"]]
    assert len(set(picked)) == WANTED
    folders = sorted(path.name for path in (out / "trials").iterdir())
    assert folders == [f"{trial['number']:04d}" for trial in by_outcome["measured"]], "nothing half-done"

    for trial in by_outcome["measured"]:
        folder = out / "trials" / f"{trial['number']:04d}"
        report = Report.from_json((folder / "report.json").read_text(encoding="utf-8"))
        ratio = report.candidate.weight_bytes / report.baseline.weight_bytes
        assert "the baseline was measured before this run, on the same machine" in report.notes
        assert trial["values"] == [pytest.approx(ratio), report.candidate.wer]
        assert (folder / "model.safetensors").exists() is (trial["number"] in found["front"])
    assert ElementTree.parse(out / "pareto.svg").getroot().tag.endswith("svg")

    best = load_recipe(out / "best.yaml")
    (trial,) = [trial for trial in by_outcome["measured"] if trial["number"] == found["best"]]
    keeps = [entry.keep for entry in best.passes if entry.kind == "layer_drop"]
    assert keeps == [trial["picked"]["passes.2.keep"]]
    assert ("cast" in [entry.kind for entry in best.passes]) is trial["picked"]["passes.0.when"]
    assert best.name == "small_best"
    assert best.data.test == (str(tmp_path / "clips.json"),), "its paths hold from anywhere"

    # The same command again finds nothing to do; goals may change, and are then judged anew.
    before = sorted(out.rglob("*.json"))
    again = search_recipe(recipe_file, out=out, device="cpu", overrides=[f"search.trials={WANTED}"])
    assert (again.count("measured"), again.best) == (WANTED, found["best"])
    assert sorted(out.rglob("*.json")) == before
    options = ["--out", str(out), "--trials", str(WANTED), "--device", "cpu"]
    assert _run(["search", str(recipe_file), *options, "--set", "goals.weight_ratio=0.01"]) == 3
    shown = capsys.readouterr().out
    assert "No trial meets all goals" in " ".join(shown.split())
    assert not (out / "best.yaml").exists()


def test_what_is_not_installed_is_named_with_the_command(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(AudioLMError, match=r"optuna not installed; pip install 'audiolm-compress\[search\]'"):
        search_recipe(recipe_file)


def test_unknown_objectives_are_refused_before_any_work(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", str(recipe_file), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert _run([*arguments, "--objectives", "weights,wr"]) == 2
    assert "found 'wr'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
