"""Files of answers through the command line: upstream's own figures, pairs of files, and refusals."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from audiolm_compress.cli import _run
from audiolm_compress.measurement.answer_file import write_answers


def annotation(folder: Path, task: str, references: list[list[str]], **more: Any) -> str:
    file = folder / f"{task}.json"
    entries = [
        {"path": f"{i}.wav", "testset_id": f"{task}{i:03}", "task": task, "texts": texts, **more}
        for i, texts in enumerate(references)
    ]
    file.write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    return str(file)


def answers(folder: Path, name: str, task: str, texts: list[str]) -> str:
    """In an order of their own, as answers are joined by their ids."""
    rows = [(f"{task}{i:03}", text) for i, text in enumerate(texts)]
    random.Random(0).shuffle(rows)
    write_answers(folder / name, rows)
    return str(folder / name)


def scored(*arguments: str, out: Path) -> dict[str, Any]:
    assert _run(["score", *arguments, "--json", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_wer_equals_upstreams(parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixture = json.loads((parity / "metrics" / "wer.json").read_text(encoding="utf-8"))
    pairs = fixture["pairs"]
    reference = annotation(tmp_path, "asr", [[pair["ref"]] for pair in pairs])
    file = answers(tmp_path, "a.csv", "asr", [pair["hyp"] for pair in pairs])
    (side,) = scored(file, reference, out=tmp_path / "found.json")["answers"]
    assert side["scores"]["wer"]["value"] == pytest.approx(fixture["wer"], abs=1e-12)
    assert [sum(list(clip["edits"].values())[:3]) for clip in side["clips"]] == [
        pair["edit_distance"] for pair in pairs
    ]
    assert side["edits"]["words"] == fixture["total_ref_length"]
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{fixture['total_edit_distance']} errors in {fixture['total_ref_length']} words" in shown
    assert f"WER {fixture['wer']:.4f} " in shown


def test_cider_d_equals_upstreams(parity: Path, tmp_path: Path) -> None:
    """As upstream compares captions; in lower case and without punctuation more words are equal."""
    fixture = json.loads((parity / "metrics" / "cider_d.json").read_text(encoding="utf-8"))
    reference = annotation(tmp_path, "audiocaption", fixture["references"])
    file = answers(tmp_path, "a.csv", "audiocaption", fixture["candidates"])
    (side,) = scored(file, reference, "--as-written", out=tmp_path / "found.json")["answers"]
    assert side["scores"]["cider_d"]["value"] == pytest.approx(fixture["cider_d"], abs=1e-9)
    assert [clip["scores"]["cider_d"]["amount"] for clip in side["clips"]] == pytest.approx(
        fixture["cider_d_per_item"], abs=1e-9
    )
    (usual,) = scored(file, reference, out=tmp_path / "found.json")["answers"]
    assert usual["scores"]["cider_d"]["value"] > side["scores"]["cider_d"]["value"]


def test_two_files_are_compared_clip_by_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file against itself differs in nothing; one with a wrong word in every clip is worse."""
    texts = [f"the number is {i} and nothing else" for i in range(30)]
    reference = annotation(tmp_path, "asr", [[text] for text in texts])
    good = answers(tmp_path, "good.csv", "asr", texts)
    bad = answers(tmp_path, "bad.csv", "asr", [text.replace("nothing", "something") for text in texts])
    same = scored(good, good, reference, out=tmp_path / "found.json")["differences"]["wer"]
    assert same["difference"] == 0 and same["p_value"] == 1 and same["within_noise"]
    found = scored(good, bad, reference, out=tmp_path / "found.json")["differences"]["wer"]
    assert found["difference"] == pytest.approx(1 / 7)
    assert found["p_value"] < 0.001 and not found["within_noise"]
    assert "worse" in capsys.readouterr().out


def test_answers_that_cannot_be_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All reasons at once; what only upstream's validator minds is for ``validate`` alone."""
    reference = annotation(tmp_path, "asr", [["one"], ["two"], ["three"]])
    file = tmp_path / "a.csv"
    file.write_text("testset_id,text\nasr000,\nasr001,two\nasr001,2\n", encoding="utf-8")
    assert _run(["score", str(file), reference]) == 2
    assert capsys.readouterr().err == (
        f"error: {file}: 2 problems\n"
        "  line 4: testset_id 'asr001' again, first in line 3\n"
        "  no answer to testset_id 'asr002'\n"
    )
    assert _run(["validate", str(file), reference]) == 2
    assert "3 problems\n  line 2: empty text" in capsys.readouterr().err
    file.write_text("testset_id,text\nasr000,\nasr001,two\nasr002,3\n", encoding="utf-8")
    assert _run(["validate", str(file)]) == 2
    assert _run(["score", str(file), reference]) == 0
    assert "1 problem" in capsys.readouterr().out.replace("\n", " ")
    assert _run(["score", str(file)]) == 2
    assert _run(["validate", str(file), "--task", "asr"]) == 2
    assert _run(["score", str(file), reference, "--task", "aac"]) == 2
    assert "asked for task aac, but the test set has only asr" in capsys.readouterr().err


def test_a_good_file_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = annotation(tmp_path, "asr", [["one"], ["two"]])
    file = answers(tmp_path, "a.csv", "asr", ["one", "two"])
    assert _run(["validate", file, reference]) == 0
    assert f"{file}: valid, 2 answers: all clips of task asr in {reference}" in capsys.readouterr().out
    assert _run(["validate", file]) == 0
