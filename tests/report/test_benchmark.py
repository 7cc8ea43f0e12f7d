"""A benchmark holds any number of models, fits a narrow terminal and reads back as it was written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audiolm_compress import benchmark
from audiolm_compress.errors import AudioLMError, DataError
from audiolm_compress.measurement.groups import figures
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.passes.base import Silent
from audiolm_compress.report import Benchmark, Report

Measured = Callable[..., Measurements]

ENVIRONMENT = {"audiolm_compress": "0.1.0", "device": "cpu"}
ERRORS = np.array([0, 1, 2, 1, 0, 3, 1, 2, 0, 1])


def benchmarked(*sides: Measurements, names: Sequence[str] = ("tiny", "out/a", "tiny")) -> Benchmark:
    return Benchmark.of(names[: len(sides)], sides, environment=ENVIRONMENT, notes=["made by: bench"])


@pytest.fixture
def three(measured: Measured) -> Benchmark:
    """A baseline, one that makes an error more in every clip, and the baseline again."""
    worse = measured(errors=(ERRORS + 1).tolist(), weight_bytes=2**21, tpot=0.008, kernels={"int4": 12})
    return benchmarked(measured(errors=ERRORS.tolist()), worse, measured(errors=ERRORS.tolist()))


def test_every_model_is_compared_with_the_first(three: Benchmark) -> None:
    assert three.names == ("tiny", "out/a", "tiny (2)")
    worse, same = three.differences
    assert worse["wer"].difference == pytest.approx(0.1)
    assert worse["wer"].p_value == 2 / 2**10
    assert same["wer"].difference == 0.0 and same["wer"].p_value == 1.0
    rows = [line.split() for line in three.table().splitlines()]
    assert ["out/a", "WER", "+0.1000", "+0.1000", "to", "+0.1000", "0.002", "worse"] in rows
    assert ["tiny", "(2)", "WER", "+0.0000", "+0.0000", "to", "+0.0000", "1", "within", "noise"] in rows
    assert ["out/a", "0.500x", "1.000x", "1.000x", "0.800x"] in rows
    low, high = three.baseline.scores["wer"].low, three.baseline.scores["wer"].high
    assert ["tiny", "WER", "0.1100", f"{low:.4f}", "to", f"{high:.4f}", "10"] in rows
    assert "out/a: kernels int4 x 12" in three.table()


def test_one_model_is_shown_without_comparison(measured: Measured) -> None:
    alone = benchmarked(measured())
    assert alone.differences == ()
    assert "against" not in alone.table() and "randomisation" not in alone.table()
    assert Benchmark.from_json(alone.to_json()) == alone


def test_long_names_fit_a_narrow_terminal(measured: Measured) -> None:
    names = ("/data/models/salmonn-3b/config.yaml", "out/recipes/gemma2_smallest/with-training", "tiny")
    table = benchmarked(measured(), measured(), measured(), names=names).table()
    assert max(map(len, table.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in table


def test_json_reads_back_equal(three: Benchmark) -> None:
    text = three.to_json()
    assert list(json.loads(text))[:3] == ["schema", "names", "sides"]
    assert Benchmark.from_json(text) == three
    with pytest.raises(DataError, match="expected the JSON of a benchmark, with names and sides"):
        Benchmark.from_json(Report.of(*three.sides[:2], environment=ENVIRONMENT).to_json())
    with pytest.raises(DataError, match="reads schema 1, found schema 9"):
        Benchmark.from_json(text.replace('"schema": 1', '"schema": 9', 1))


def test_figures_of_one_clip_are_unbounded_in_json_too(measured: Measured) -> None:
    side = measured()
    clip = side.clips[1]
    clips = (replace(clip, scores={"wer": replace(clip.scores["wer"], amount=30)}),)
    side = replace(side, clips=clips, scores=figures(clips, 0), groups=())
    found = benchmarked(side, side)
    assert '"high": null' in found.to_json()
    assert Benchmark.from_json(found.to_json()) == found
    assert "0.0000 to inf" in found.table() and "-inf to +inf" in found.table()


def test_a_folder_holds_documents_and_answers(three: Benchmark, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "bench"
    assert sorted(three.write(folder)) == sorted(folder.iterdir())
    names = {file.name for file in folder.iterdir()}
    assert {"bench.json", "bench.md", "model1_asr.csv", "model3_aac.csv", "model2_scores.csv"} <= names
    assert Benchmark.from_json((folder / "bench.json").read_text(encoding="utf-8")) == three
    with (folder / "model2_asr.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["testset_id", "text"]
    document = (folder / "bench.md").read_text(encoding="utf-8")
    for expected in (
        "## Scores against tiny",
        "| out/a | WER | +0.1000 | +0.1000 to +0.1000 | 0.002 | worse |",
        "| clip | reference | tiny | out/a | tiny (2) |",
        "- made by: bench",
        "- device: cpu",
    ):
        assert expected in document


def test_models_on_different_clips_are_not_compared(measured: Measured) -> None:
    with pytest.raises(DataError, match="not measured on the same clips"):
        benchmarked(measured(), measured(errors=(0, 1)))


def test_no_model_is_refused() -> None:
    with pytest.raises(AudioLMError, match="name at least one"):
        benchmark([])


def test_what_is_no_model_is_refused_before_others_are_loaded(tmp_path: Path) -> None:
    seen: list[str] = []

    class Telling(Silent):
        def start(self, description: str, total: int) -> None:
            seen.append(description)

    with pytest.raises(AudioLMError, match=r"no model folder.*name a folder that `run` or `train` wrote"):
        benchmark(["tiny", tmp_path], progress=Telling())
    assert seen == []
