"""A report holds both models, says how sure it is and reads back as it was written."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from rich.console import Console

from audiolm_compress.errors import DataError
from audiolm_compress.measurement.groups import figures
from audiolm_compress.measurement.measurements import BatchLatency, ClipScore, Measurements, Spread
from audiolm_compress.passes import MergeLora
from audiolm_compress.passes.base import PassReport
from audiolm_compress.recipe import load_recipe
from audiolm_compress.recipe_sections import Goals
from audiolm_compress.report import Benchmark, Report, Step
from audiolm_compress.report.files import write_report

Measured = Callable[..., Measurements]

STEP = Step.of(
    MergeLora(),
    PassReport(
        changed=False,
        summary="no LoRA here",
        figures={"worst": math.nan},
        modules=[{"name": "q_proj", "error": 0.123456789}],
        notes=["left one layer out"],
    ),
    seconds=1.5,
    weight_bytes={"llm": 2 * 2**20},
)
ENVIRONMENT = {"audiolm_compress": "0.1.0", "device": "cpu"}


def report(measured: Measured, goals: Goals | None = None) -> Report:
    smaller = measured(weight_bytes=2**21, tpot=0.008, kernels={"int4": 12}, notes=("short answers",))
    return Report.of(measured(), smaller, steps=[STEP], environment=ENVIRONMENT, goals=goals)


def test_json_has_the_agreed_keys_and_reads_back(measured: Measured) -> None:
    written = report(measured, Goals(weight_ratio=0.5, wer_increase="noise"))
    text = written.to_json()
    content = json.loads(text)
    assert list(content)[:5] == ["schema", "baseline", "candidate", "steps", "environment"]
    for side in (content["baseline"], content["candidate"]):
        keys = {"weight_bytes", "peak_memory_bytes", "ttft_s", "tpot_s", "scores", "unscored", "groups"}
        assert keys <= side.keys()
        assert list(side["scores"]) == ["wer", "cider_d"] and list(side["unscored"]) == ["spider", "spice"]
        assert side["scores"]["wer"]["low"] < side["scores"]["wer"]["value"] == 0.1
    assert content["candidate"]["weight_bytes"] == 2**21
    assert content["steps"][0]["figures"] == {"worst": None}, "JSON knows no NaN"
    assert Report.from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "reads schema 2, found schema 3"),
        ({"schema": None}, "found schema 1"),
        ({"baseline": None}, "with baseline and candidate"),
    ],
)
def test_reports_in_another_form_are_refused(
    measured: Measured, change: dict[str, int | None], message: str
) -> None:
    content = json.loads(report(measured).to_json()) | change
    text = json.dumps({name: value for name, value in content.items() if value is not None})
    with pytest.raises(DataError, match=message):
        Report.from_json(text)


def test_what_is_no_json_is_no_report() -> None:
    with pytest.raises(DataError, match="found no JSON"):
        Report.from_json("WER 0.1")


def test_table_has_both_models_all_columns_and_every_protocol(measured: Measured) -> None:
    table = report(measured, Goals(weight_ratio=0.4)).table()
    assert max(map(len, table.splitlines())) <= 110
    main = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    assert main["baseline"] == ["4.00", "10.00", "200.00", "10.00", "0.1000", "2.0000", "SPICE", "not"]
    assert main["candidate"][:4] == ["2.00", "10.00", "200.00", "8.00"]
    assert main["change"] == ["0.500x", "1.000x", "1.000x", "0.800x", "+0.0000", "+0.0000"]
    assert main["noise"] == ["within", "within"]
    for expected in (
        "speech_encoder",
        "7 real clips",
        "ten seconds of noise",
        "2 padded to 1 s, 1 cut at 30 s, 3 unusable and skipped",
        "SPICE not installed: no Java",
        "candidate: kernels int4 x 12",
        "candidate: short answers",
        "pass 1, merge_lora, changed nothing: no LoRA here",
        "pass 1, merge_lora: left one layer out",
        "randomisation test",
    ):
        assert expected in table


def test_missed_goals_are_a_table_with_limits_and_distances(measured: Measured) -> None:
    found = report(measured, Goals(weight_ratio=0.4, tpot_ratio=0.9, spider_decrease=0.1))
    plain = found.table()
    assert "  met: tpot_ratio 0.800, asked for 0.9\n" in plain
    rows = [line.split() for line in plain.partition("Goals MISSED")[2].splitlines()]
    assert ["weight_ratio", "0.4", "0.500", "+0.1000"] in rows
    assert ["spider_decrease", "0.1", "not", "measured", "not", "measured", "on", "both", "models"] in rows
    assert "| weight_ratio | 0.4 | 0.500 | +0.1000 |  |" in found.to_markdown()
    assert "MISSED" not in report(measured, Goals(weight_ratio=0.6)).table()


def test_captions_are_judged_by_spider_if_both_models_have_it(measured: Measured) -> None:
    goals = Goals(aac_decrease=0.5)
    (by_cider,) = report(measured, goals).goals
    assert (by_cider.met, by_cider.reached, by_cider.note) == (True, 0.0, "CIDEr-D")

    def scored(*values: float) -> Measurements:
        side = measured()
        scores = iter(values)
        clips = [
            replace(clip, scores={**clip.scores, "spider": ClipScore(next(scores), 1)})
            if "cider_d" in clip.scores
            else clip
            for clip in side.clips
        ]
        return replace(side, clips=tuple(clips), scores=figures(clips, seed=0))

    (by_spider,) = Report.of(scored(2, 2, 2), scored(1, 1, 1), environment=ENVIRONMENT, goals=goals).goals
    assert (by_spider.met, by_spider.reached, by_spider.note) == (False, 1.0, "SPIDEr")


def test_parts_of_ttft_and_throughput_stand_under_the_latency(measured: Measured) -> None:
    def spread(seconds: float) -> Spread:
        return Spread(seconds, seconds, seconds, 5)

    before, after = measured(), measured()
    parts = {"features": spread(0.01), "audio_encoder": spread(0.15), "prefill": spread(0.04)}
    heard = replace(before.clips_latency, parts=parts, real_time_factor=spread(0.05), energy_joules=2.5)
    deaf = replace(after.clips_latency, parts={"features": spread(0.01), "prefill": spread(0.03)})
    before = replace(before, clips_latency=heard, batches=(BatchLatency(4, spread(0.3), None, 8.0),))
    after = replace(after, clips_latency=deaf, memory=replace(after.memory, kv_cache_bytes_per_token=1024))
    both = Report.of(before, after, environment=ENVIRONMENT)
    text = both.to_markdown()
    for row in (
        "|  | - features | 10.00 | 10.00 |",
        "|  | - audio encoder | 150.00 | none |",
        "|  | - prefill | 40.00 | 30.00 |",
        "| computing, s per s of audio | 0.05 (0.05 to 0.05) | n/a |",
        "| energy, J per clip | 2.5 | n/a |",
        "| KV cache, bytes per token | n/a | 1024 |",
        "| 4 clips at once: TTFT, ms | 300.00 | n/a |",
        "| 4 clips at once: further step, ms | n/a | n/a |",
        "| 4 clips at once: clips per s | 8 | n/a |",
    ):
        assert row in text
    assert "- audio encoder" in both.table() and "4 clips at once: clips per s" in both.table()
    of_models = Benchmark.of(["a", "b"], [before, after], environment=ENVIRONMENT).to_markdown()
    assert "| model | features | audio encoder | prefill |" in of_models
    assert "| b | 10.00 | none | 30.00 |" in of_models
    assert "| a | energy, J per clip | 2.5 |" in of_models
    assert Report.from_json(both.to_json()).baseline == before


def test_what_the_runtime_gave_is_told_from_what_compression_gave(measured: Measured) -> None:
    """10 ms a token here, 40 in transformers' generate; the candidate takes 8 here."""
    before = measured()
    slow = replace(before.clips_latency, tpot=Spread(0.04, 0.04, 0.04, 5))
    found = Report.of(
        replace(before, transformers_latency=slow), measured(tpot=0.008), environment=ENVIRONMENT
    )
    text = found.to_markdown()
    assert (
        "TPOT from the baseline in transformers' generate to the candidate here: 40.00 to 8.00 ms, 0.200x"
        in text
    )
    assert "of which the runtime 0.250x and compression 0.800x" in text
    assert "| transformers | TPOT | 40.00 (40.00 to 40.00) | not timed |" in text
    assert Report.from_json(found.to_json()).baseline.transformers_latency == slow


def test_results_of_before_have_no_times_in_transformers(measured: Measured) -> None:
    content = json.loads(report(measured).to_json())
    for side in ("baseline", "candidate"):
        del content[side]["transformers_latency"]
    read = Report.from_json(json.dumps(content))
    assert read.baseline.transformers_latency is None
    assert "transformers" not in read.table()


def test_a_narrow_terminal_cuts_no_figure(measured: Measured) -> None:
    console = Console(width=80, color_system=None)
    shown = replace(report(measured), further={"own settings": measured(), "own best": measured()})
    with console.capture() as captured:
        console.print(shown)
    assert "…" not in captured.get()


@pytest.mark.parametrize(
    ("goals", "met"),
    [
        ({"weight_ratio": 0.5}, True),
        ({"weight_ratio": 0.49}, False),
        ({"weights_gib": 2 / 1024}, True),
        ({"weights_gib": 1.9 / 1024}, False),
        ({"peak_memory_gib": 10 / 1024}, True),
        ({"peak_memory_gib": 0.009}, False),
        ({"peak_memory_ratio": 1.0}, True),
        ({"ttft_ratio": 0.9}, False),
        ({"tpot_ratio": 0.81}, True),
        ({"wer_increase": 0.0}, True),
        ({"cider_d_decrease": -0.1}, False),
        ({"spider_decrease": 0.1}, False),  # not measured is not met
        ({"spider_decrease": "noise"}, False),
        ({"aac_decrease": 0.0}, True),  # by CIDEr-D here
        ({"aac_decrease": "noise"}, True),
        ({}, True),
    ],
)
def test_goals(measured: Measured, goals: dict[str, float | str], met: bool) -> None:
    assert report(measured, Goals(**goals)).goals_met is met


def test_noise_is_judged_by_the_paired_interval(measured: Measured) -> None:
    """Six of six clips worse are beyond chance; one worse and one better is not; better is always met."""
    goals = Goals(wer_increase="noise", cider_d_decrease="noise")
    baseline = measured(errors=(0, 1, 2, 1, 0, 3), cider=(1.0, 2.0, 3.0, 1.0, 2.0, 3.0))
    cases = {
        "worse": (measured(errors=(1, 2, 3, 2, 1, 4), cider=(0.5, 1.5, 2.5, 0.5, 1.5, 2.5)), False),
        "mixed": (measured(errors=(1, 0, 2, 1, 0, 3), cider=(1.5, 1.5, 3.0, 1.0, 2.0, 3.0)), True),
        "better": (measured(errors=(0, 0, 1, 0, 0, 2), cider=(2.0, 3.0, 4.0, 2.0, 3.0, 4.0)), True),
    }
    for name, (candidate, met) in cases.items():
        found = Report.of(baseline, candidate, environment=ENVIRONMENT, goals=goals)
        assert [goal.met for goal in found.goals] == [met, met], name
    assert found.differences["wer"].difference == pytest.approx(-4 / 60)


def test_models_on_different_clips_are_not_compared(measured: Measured) -> None:
    with pytest.raises(DataError, match="not measured on the same clips"):
        Report.of(measured(), measured(errors=(0, 1, 2)), environment=ENVIRONMENT)


def test_models_scored_against_different_references_are_not_compared(measured: Measured) -> None:
    other = measured()
    clips = [
        replace(clip, scores={"wer": ClipScore(1, 9)}) if "wer" in clip.scores else clip
        for clip in other.clips
    ]
    with pytest.raises(DataError, match="WER of model and model was not scored against the same references"):
        Report.of(measured(), replace(other, clips=tuple(clips)), environment=ENVIRONMENT)


def test_a_model_without_a_kind_of_clips_is_shown_without_its_score(measured: Measured) -> None:
    shown = Report.of(measured(cider=()), measured(cider=()), environment=ENVIRONMENT)
    assert shown.differences.keys() == {"wer"}
    assert not {"SPICE", "CIDEr-D"} & set(shown.table().split())


def test_the_baseline_under_other_settings_is_shown_and_judges_nothing(measured: Measured) -> None:
    """Columns for the reader: goals and differences are those against the fair baseline."""
    worse, better = measured(errors=(2, 2, 3, 2)), measured(errors=(0, 0, 0, 0))
    further = {"own settings": worse, "own best": better}
    goals = Goals(wer_increase=0.0)
    found = Report.of(measured(), measured(), environment=ENVIRONMENT, goals=goals, further=further)
    assert found.goals_met and found.differences["wer"].difference == 0.0
    table = found.table()
    main = [line.split() for line in table.splitlines() if line.strip()]
    rows = {" ".join(cells[:-8]) or cells[0]: cells for cells in main if "SPICE" in cells}
    assert [cells[-3 - 1] for cells in rows.values()][:4] == ["0.1000", "0.2250", "0.0000", "0.1000"]
    assert max(map(len, table.splitlines())) <= 110
    for text in (" ".join(table.split()), found.to_markdown()):
        assert "candidate against own settings: WER -0.1250" in text
        assert "candidate against own best: WER +0.1000" in text
    assert "| own best | 4.00 |" in found.to_markdown()
    written = found.to_json()
    assert Report.from_json(written).further == further
    assert Report.from_json(written).to_json() == written


def test_results_of_before_know_no_further_columns(measured: Measured) -> None:
    content = json.loads(report(measured).to_json())
    del content["further"]
    assert Report.from_json(json.dumps(content)).further == {}


def test_markdown_escapes_what_models_say(measured: Measured) -> None:
    text = report(measured).to_markdown()
    assert "heard \\| 0" in text
    assert "| q_proj | 0.123457 |" in text


def test_markdown_says_what_was_compressed_where_and_how_to_repeat_it(measured: Measured) -> None:
    before = replace(measured(), source="tiny")
    after = replace(measured(), source="out/my models/small")
    machine = ENVIRONMENT | {"device_name": "a card", "packages": {"torch": "2.13.0", "numpy": "2.4.6"}}
    text = Report.of(before, after, steps=[STEP], environment=machine).to_markdown()
    assert text.startswith(
        "# Compression report: small\n\nout/my models/small against the baseline tiny, on 7 "
    )
    assert "measured on a card.\n" in text
    assert "- packages: torch 2.13.0, numpy 2.4.6\n" in text
    again = "audiolm-compress run 'out/my models/small/recipe.yaml' --out 'out/my models/small-again'"
    assert text.endswith(f"## Do it again\n\n```sh\n{again}\n```\n")
    assert "```sh\naudiolm-compress bench tiny 'out/my models/small'\n```" in (
        Report.of(before, after, environment=machine).to_markdown()
    )


def test_notes_on_the_run_are_shown_and_read_back(measured: Measured) -> None:
    note = "rehearsal: pass 1 (mine) cannot predict, so it was not tried"
    written = replace(report(measured), notes=(note,))
    assert f"- {note}\n" in written.to_markdown()
    assert f"- {note}" in written.table()
    assert Report.from_json(written.to_json()).notes == (note,)


def test_files_of_a_report(measured: Measured, tmp_path: Path) -> None:
    recipe = load_recipe({"name": "mine", "passes": [{"pass": "merge_lora"}], "description": "a test"})
    written = report(measured)
    write_report(written, recipe, tmp_path)
    assert (
        Report.from_json((tmp_path / "report.json").read_text(encoding="utf-8")).to_json()
        == written.to_json()
    )
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == written.to_markdown()
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == written.to_html()
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("audiolm-compress", "audio-text-to-text")
    assert "merge_lora" in data.tags and data.license is None
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {
        name: round(score.value, 4) for name, score in written.candidate.scores.items()
    }
    assert ModelCard(card).text.strip().startswith("# mine\n\na test\n")
    with (tmp_path / "candidate_asr.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream))[:2] == [["testset_id", "text"], ["s0", "heard | 0"]]
