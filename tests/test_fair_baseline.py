"""The baseline is measured as the candidate is asked, and no oftener than its settings differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audiolm_compress.fair_baseline import BEST, OWN, fair_baseline
from audiolm_compress.measurement.measurements import Latency, Measurements, Memory, Spread
from audiolm_compress.pipeline import apply_recipe
from audiolm_compress.report import Report
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.asking import Asking
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.prompts import Prompts

_TIME = Spread(0.1, 0.1, 0.1, 1)
_LATENCY = Latency("", _TIME, None, 1.0)
BEFORE = Measurements(
    source="before",
    weight_bytes=1,
    weight_bytes_by_part={},
    memory=Memory(1, None, None, ""),
    clips_latency=_LATENCY,
    noise_latency=_LATENCY,
    scores={},
    unscored={},
    edits=None,
    groups=(),
    counts={},
    skipped=(),
    decode={},
    clips=(),
    environment={},
    load_seconds=0.0,
)


def asking(beams: int) -> Asking:
    return Asking(prompts=Prompts(), decode={"default": DecodeSettings(num_beams=beams)})


@pytest.mark.parametrize(
    ("candidates", "best", "fair", "further"),
    [
        (1, None, "before", {}),
        (1, 1, "before", {}),  # the searches left both as they were
        (2, None, "2 beams", {OWN: "before"}),
        (2, 2, "2 beams", {OWN: "before", BEST: "2 beams"}),
        (2, 1, "2 beams", {OWN: "before", BEST: "before"}),
        (2, 3, "2 beams", {OWN: "before", BEST: "3 beams"}),
        (1, 3, "before", {BEST: "3 beams"}),
    ],
)
def test_what_is_measured_and_shown(
    candidates: int, best: int | None, fair: str, further: dict[str, str]
) -> None:
    measured: list[str] = []

    def measure(name: str, asked: Asking) -> Measurements:
        measured.append(f"{asked.decode['default'].num_beams} beams")
        return replace(BEFORE, source=measured[-1])

    found = fair_baseline(
        [(asking(1), BEFORE)],
        asking(1),
        asking(candidates),
        None if best is None else asking(best),
        measure,
    )
    assert found.fair.source == fair
    assert {name: side.source for name, side in found.further.items()} == further
    assert measured == sorted(set(measured)), "nothing is measured twice"
    assert len(found.notes) == (len(further) + 1 if further else 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")
def test_a_run_shows_the_baseline_fairly_asked_as_it_came_and_at_its_best(
    small_model: Callable[[str], Salmonn], parity: Path, tmp_path: Path
) -> None:
    """The search comes after a pass that changes answers, and finds fewer beams for both, as they cost."""
    model = small_model("llama")
    model.decode = {"default": DecodeSettings(max_new_tokens=6, num_beams=2)}
    baseline = store.save(model, tmp_path / "baseline")
    entries = []
    for index in range(8):
        shutil.copy(parity / "llama" / "audio" / "clip1.wav", tmp_path / f"{index}.wav")
        task, text = (("asr", "the quick brown fox"), ("audiocaption", f"a dog barks {index}"))[index % 2]
        entries.append({"path": f"{index}.wav", "text": text, "task": task, "testset_id": str(index)})
    (tmp_path / "clips.json").write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    search = {
        "pass": "decode_search",
        "fewest_clips": 4,
        "finalists": 1,
        "confidence": 0.75,
        "num_beams": [1],
        "repetition_penalty": [],
        "latency_weight": {"wer": 9.0, "cider_d": 9.0},
    }
    recipe = {
        "name": "asked",
        "baseline": str(baseline),
        "data": {"calibration": str(tmp_path / "clips.json"), "test": str(tmp_path / "clips.json")},
        "passes": [{"pass": "quantize_embedding"}, search],
        "benchmark": {
            "latency": {"clips": 1, "warmup": 0, "transformers": False},
            "noise_protocol": {"warmup": 0, "iterations": 1},
        },
    }
    result = apply_recipe(recipe, out=tmp_path / "out", device="cpu")
    report = result.report
    assert report.steps[1].changed
    assert report.baseline.decode == report.candidate.decode
    assert report.candidate.decode["asr"]["num_beams"] == 1
    own = report.further[OWN]
    assert own.decode["asr"]["num_beams"] == 2
    assert report.further[BEST].decode["asr"]["num_beams"] == 1
    assert {own.weight_bytes, report.further[BEST].weight_bytes} == {report.baseline.weight_bytes}
    assert any(note.startswith("the baseline is asked") for note in report.notes)
    assert Report.from_json((result.path / "report.json").read_text(encoding="utf-8")).further.keys() == {
        OWN,
        BEST,
    }
