"""The form of measurements: JSON round trip and CSV files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from audiolm_compress.measurement.csv_files import write_clip_csv
from audiolm_compress.measurement.measurements import (
    ClipResult,
    Edits,
    Group,
    Latency,
    Measurements,
    Memory,
    Score,
    Spread,
)
from audiolm_compress.measurement.scoring import score


def clip(identity: str, task: str, text: str, *references: str) -> ClipResult:
    return ClipResult(identity, task, text, references, f"{identity}.wav", 2.0)


CLIPS = (
    clip("a", "asr", "the cat sat", "The cat sat."),
    clip("b", "audiocaption", "rain falls", "rain is falling", "Rain falls."),
    clip("c", "asr", "a dog", "the dog barks"),
    clip("d", "QA", "two", ""),
    clip("e", "audiocaption", "a bell rings", "a bell rings twice"),
)


def measurements(clips: tuple[ClipResult, ...] = CLIPS) -> Measurements:
    spread = Spread.of([0.1, 0.2, 0.3])
    assert spread is not None
    return Measurements(
        source="somewhere",
        weight_bytes=30,
        weight_bytes_by_part={"llm": 20, "connector": 10},
        memory=Memory(100, None, None, "counted"),
        clips_latency=Latency("clips", spread, None, 1.0),
        noise_latency=Latency("noise", spread, spread, 2.0),
        scores={"wer": Score(0.5, 0.25, 0.75, 2)},
        unscored={"spider": "SPICE not installed"},
        edits=Edits(1, 2, 0, 6),
        groups=(Group("length", "up to 5 s", 2, {"wer": Score(0.5, 0.25, 0.75, 2)}, seconds=(0.0, None)),),
        counts={"clips": len(clips)},
        skipped=(("x.wav", "missing"),),
        decode={"asr": {"num_beams": 1}},
        clips=clips,
        environment={"threads": 1},
        load_seconds=1.5,
        notes=("a note",),
    )


def test_spread() -> None:
    spread = Spread.of([float(value) for value in range(101)])
    assert spread == Spread(median=50.0, p5=5.0, p95=95.0, runs=101)
    assert Spread.of([]) is None


def test_json_round_trip_and_names_of_the_report() -> None:
    before = measurements(score(CLIPS).clips)
    content = json.loads(json.dumps(before.to_dict()))
    assert Measurements.from_dict(content) == before
    assert content["weight_bytes"] == 30 and content["peak_memory_bytes"] == 100
    assert content["ttft_s"] == pytest.approx(0.2) and content["tpot_s"] is None
    assert content["scores"] == {"wer": {"value": 0.5, "low": 0.25, "high": 0.75, "clips": 2}}
    assert (before.wer, before.cider_d, before.spider) == (0.5, None, None)
    assert content["unscored"] == {"spider": "SPICE not installed"}


def test_csv_files(tmp_path: Path) -> None:
    odd = clip("f,1", "asr", 'he said "no",\nthen é', "x")
    scored = measurements((*score(CLIPS).clips, odd))
    files = write_clip_csv(tmp_path, "baseline", scored)
    assert [file.name for file in files] == [
        "baseline_asr.csv",
        "baseline_aac.csv",
        "baseline_qa.csv",
        "baseline_scores.csv",
    ]
    with files[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["testset_id", "text"]
    assert rows[1:] == [["a", "the cat sat"], ["c", "a dog"], ["f,1", 'he said "no",\nthen é']]
    with files[-1].open(encoding="utf-8", newline="") as file:
        scores = {row["testset_id"]: row for row in csv.DictReader(file)}
    assert scores["b"]["reference"] == "rain is falling | Rain falls."
    assert float(scores["c"]["wer"]) == pytest.approx(2 / 3) and scores["c"]["cider_d"] == ""
    edits = ("substitutions", "deletions", "insertions", "words")
    assert [scores["c"][name] for name in edits] == ["1", "1", "0", "3"]
    assert scores["d"]["words"] == "" and float(scores["e"]["cider_d"]) > 0
