"""Runs beside each other: what is read, what may be compared, and in which order it stands."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audiolm_compress import compare
from audiolm_compress.cli import _run
from audiolm_compress.errors import DataError
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.recipe_sections import Goals
from audiolm_compress.report import Benchmark, Report
from audiolm_compress.report.compare.published import MARK, published
from audiolm_compress.report.compare.run import COSTS

Write = Callable[..., Path]


@pytest.fixture
def write(measured: Callable[..., Measurements], tmp_path: Path) -> Write:
    """Writes a run's folder; the smaller its candidate, the more errors it may be given."""

    def make(name: str, mib: int, errors: tuple[int, ...] = (0, 1, 2, 1), **environment: object) -> Path:
        before = measured((0, 1, 2, 1)[: len(errors)])
        after = replace(measured(errors=errors, weight_bytes=mib * 2**20), source=f"out/{name}")
        before, after = (replace(s, environment={"device": "cpu", **environment}) for s in (before, after))
        goals = Goals(weight_ratio=0.6, wer_increase=0.0)
        report = Report.of(before, after, environment=dict(after.environment), goals=goals)
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
        return folder

    return make


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_runs_are_found_in_folders_files_and_folders_of_runs(write: Write, tmp_path: Path) -> None:
    first, second = write("search/trials/0000", 2), write("search/trials/0001", 1)
    write("search/trials/.0002.partial", 3)  # goes on, or was killed
    by_folder = compare(tmp_path / "search", sort="given")
    assert [run.name for run in by_folder.runs] == ["0000", "0001"]
    named = compare([first, second / "report.json", first], sort="given")  # the same file counts once
    assert named.runs == by_folder.runs
    renamed = (first / "report.json").rename(tmp_path / "mine.json")
    assert [run.name for run in compare(renamed).runs] == ["mine"]


def test_a_benchmark_is_a_run_for_each_model_after_the_first(
    measured: Callable[..., Measurements], write: Write, tmp_path: Path
) -> None:
    sides = [measured(), measured(weight_bytes=2**20), measured(weight_bytes=2**21)]
    found = Benchmark.of(["tiny", "a", "b"], sides, environment={})
    (tmp_path / "bench.json").write_text(found.to_json(), encoding="utf-8")
    shown = compare([tmp_path / "bench.json", write("c", 3)])
    assert [run.name for run in shown.runs] == ["a", "b", "c"]
    assert shown.runs[0].differences == found.differences[0]
    alone = Benchmark.of(["tiny"], sides[:1], environment={})
    (tmp_path / "bench.json").write_text(alone.to_json(), encoding="utf-8")
    (run,) = compare(tmp_path / "bench.json").runs
    assert run.baseline is None and "tiny" in compare(tmp_path / "bench.json").table()


def test_all_that_cannot_be_read_is_told_at_once(write: Write, tmp_path: Path) -> None:
    good = write("good", 2)
    content = json.loads((good / "report.json").read_text(encoding="utf-8"))
    bad = {
        "old.json": json.dumps(content | {"schema": 1}),
        "cut.json": "{",
        "other.json": "[]",
        "damaged.json": json.dumps(content | {"candidate": {"source": "x"}}),
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "empty").mkdir()
    places = [good, tmp_path / "gone", tmp_path / "empty", *(tmp_path / name for name in bad)]
    with pytest.raises(DataError) as told:
        compare(places)
    first, *others = str(told.value).splitlines()
    assert first.startswith("compare: asked for 7 runs, of which 6 cannot be compared")
    expected = {
        "gone": "no such file or folder",
        "empty": "found no report.json and no bench.json",
        "old.json": "reads schema 2, found schema 1",
        "cut.json": "found no JSON",
        "other.json": "found other JSON",
        "damaged.json": "is damaged (KeyError",
    }
    assert len(others) == len(expected)
    for name, words in expected.items():
        assert any(str(tmp_path / name) in line and words in line for line in others), name


def test_order_is_by_ratios_and_scores_are_best_first(write: Write) -> None:
    places = [write("large", 3), write("small", 1, (9, 9, 9, 9)), write("middle", 2, (0, 0, 0, 0))]
    assert [run.name for run in compare(places).runs] == ["small", "middle", "large"]
    assert [run.name for run in compare(places, sort="given").runs] == ["large", "small", "middle"]
    assert [run.name for run in compare(places, sort="wer").runs] == ["middle", "large", "small"]
    with pytest.raises(DataError, match="unknown order 'size'"):
        compare(places, sort="size")
    with pytest.raises(DataError, match="unknown column 'bleu'"):
        compare(places, columns=["wer", "bleu"])


def test_pareto_optimal_runs_are_marked(write: Write) -> None:
    found = compare([write("a", 1, (1, 1, 1, 1)), write("b", 2, (0, 0, 0, 1)), write("c", 3, (2, 2, 2, 2))])
    assert found.front(COSTS["weights"], "wer") == {"a", "b"}  # b beats c and the baseline in both
    marked = {row["run"]: row["wer_pareto"] for row in lines(found.to_csv())}
    assert "weights" in marked["a"] and "weights" in marked["b"] and "weights" not in marked["c"]


def test_equal_runs_are_both_pareto_optimal(write: Write) -> None:
    found = compare([write("a", 1), write("b", 1)])
    assert found.front(COSTS["weights"], "wer") == {"a", "b"}


def test_what_differs_is_listed(write: Write) -> None:
    alike = compare([write("a", 1), write("b", 2)])
    assert list(alike.notes()) == []
    found = compare([alike.runs[0].file, write("c", 2, threads=8, packages={"torch": "3"})])
    told = list(found.notes())
    assert [line.split(" differ: ")[0] for line in told] == ["CPU threads", "versions of packages"]
    assert "not recorded (a) / 8 (c)" in told[0]
    assert "compare the ratios" in told[0]


def test_scores_on_other_clips_are_not_comparable(write: Write) -> None:
    places = [write("a", 1), write("b", 2, (0, 1, 2))]
    found = compare(places)
    assert not found.comparable
    assert any(line.startswith("test clips differ: 7 clips (a) / 6 clips (b)") for line in found.notes())
    for text in (found.table(), found.to_markdown(), found.to_html()):
        assert "NOT comparable" in " ".join(text.split())
    assert {row["scores_comparable"] for row in lines(found.to_csv())} == {"no"}
    assert found.front(COSTS["weights"], "wer") == set()
    assert "Pareto" not in found.table()
    with pytest.raises(DataError, match="different test clips"):
        compare(places, sort="wer")


def test_disturbed_times_are_told(write: Write) -> None:
    places = [write("a", 1), write("b", 2)]
    content = json.loads((places[1] / "report.json").read_text(encoding="utf-8"))
    content["baseline"]["notes"] = ["the machine was busy: it did something else"]
    (places[1] / "report.json").write_text(json.dumps(content), encoding="utf-8")
    (told,) = compare(places).notes()
    assert told.endswith("while times were taken of: b")


def test_times_are_not_traded_where_baselines_differ(write: Write, tmp_path: Path) -> None:
    places = [write("a", 1), write("b", 2)]
    content = json.loads((places[1] / "report.json").read_text(encoding="utf-8"))
    content["baseline"]["source"] = "another"
    (places[1] / "report.json").write_text(json.dumps(content), encoding="utf-8")
    found = compare(places)
    assert [run.name for run in found.baselines] == ["baseline 1, model", "baseline 2, another"]
    assert found.front(COSTS["weights"], "wer") and not found.front(COSTS["ttft"], "wer")
    assert any(line.startswith("baselines differ: model (a) / another (b)") for line in found.notes())


def test_a_baseline_measured_twice_is_one_row_with_both_times(write: Write, tmp_path: Path) -> None:
    places = [write("a", 1), write("b", 2)]
    content = json.loads((places[1] / "report.json").read_text(encoding="utf-8"))
    content["baseline"]["clips_latency"]["ttft"]["median"] = 0.3
    (places[1] / "report.json").write_text(json.dumps(content), encoding="utf-8")
    found = compare(places)
    (baseline,) = found.baselines
    assert baseline.values(COSTS["ttft"]) == [0.2, 0.3]
    assert "200.00 to 300.00" in found.to_markdown()


@pytest.mark.parametrize("reference", [False, True])
def test_tables_fit_80_columns_and_agree(write: Write, reference: bool) -> None:
    found = compare(
        [write("a_run_with_a_long_name", 1, (3, 3, 3, 3)), write("[red]b", 2)], published=reference
    )
    table = found.table()
    assert max(map(len, table.splitlines())) <= 80
    document = found.to_markdown()
    for text in (table, document):
        assert "[red]b" in text  # no markup of the terminal's
        assert "(0.250x)" in text and "(0.500x)" in text
        assert (MARK.split(",")[0] in text) == reference
    rows = {row["run"]: row for row in lines(found.to_csv())}
    run = rows["a_run_with_a_long_name"]
    assert float(run["weights_ratio"]) == 0.25 and int(run["weights_bytes"]) == 2**20
    assert float(run["wer"]) == 0.3 and float(run["wer_change"]) == pytest.approx(0.2)
    assert run["goals"] == "2" and run["goals_missed"] == "wer_increase"
    assert "wer_increase" in table.partition("Goals missed")[2]


def test_published_figures_change_nothing_else(write: Write) -> None:
    places = [write("a", 1), write("b", 2)]
    alone, beside = compare(places), compare(places, published=True)
    assert beside.runs == alone.runs
    assert lines(beside.to_csv())[: len(lines(alone.to_csv()))] == lines(alone.to_csv())
    added = lines(beside.to_csv())[-len(published()) :]
    assert {row["kind"] for row in added} == {"published"}
    assert all(
        row["measured_on"] == MARK and row["weights_ratio"] == row["wer_pareto"] == "" for row in added
    )
    assert beside.to_html().count("<svg") == alone.to_html().count("<svg")
    for row in published():
        assert row.source and row.team in beside.table()


def test_columns_are_chosen(write: Write) -> None:
    found = compare([write("a", 1), write("b", 2)], columns=["weights", "wer"])
    table = found.table()
    assert "WER" in table and "TTFT" not in table and "CIDEr-D" not in table
    assert "ttft_s" not in lines(found.to_csv())[0]


def test_command_writes_all_forms(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("out/a", 1), write("out/b", 2)
    places, page = str(tmp_path / "out"), tmp_path / "new" / "runs.html"
    assert _run(["compare", places, "--csv", "-", "--html", str(page)]) == 0
    assert [row["run"] for row in lines(capsys.readouterr().out)] == ["baseline model", "a", "b"]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert _run(["compare", places, "--markdown", "-", "--columns", "wer"]) == 0
    assert capsys.readouterr().out.startswith("# Comparison of runs\n")
    assert _run(["compare", places, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [(row["kind"], row["run"]) for row in content["rows"]] == [
        ("baseline", "baseline model"),
        ("run", "a"),
        ("run", "b"),
    ]
    assert content["rows"][0]["weights_ratio"] is None and content["notes"] == []
    assert _run(["compare", places, "--csv", "-", "--markdown", "-"]) == 2
    assert _run(["compare", places, "--csv", "-", "--json"]) == 2
    assert _run(["compare", places, "--csv", str(page / "below a file")]) == 2
    assert _run(["compare", str(tmp_path / "gone")]) == 2
    assert "asked for 1 run, of which 1 cannot be compared" in capsys.readouterr().err
