"""Every score is shown with its interval, for all clips and for groups, however many scores there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from audiolm_compress.measurement.groups import figures, grouped
from audiolm_compress.measurement.measurements import ClipResult, ClipScore, Measurements
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report import Report, rows
from audiolm_compress.report.differences import group_differences
from audiolm_compress.report.quality import MOST_GROUPS, group_rows, quality_rows

Measured = Callable[..., Measurements]


def changed(side: Measurements, clips: Sequence[ClipResult]) -> Measurements:
    groups, _ = grouped(clips, (5.0, 10.0), seed=0)
    return replace(side, clips=tuple(clips), scores=figures(clips, seed=0), groups=groups)


def with_all_scores(side: Measurements) -> Measurements:
    """Captions get every score they can have; two questions are added."""
    extra = {name: ClipScore(0.5, 1) for name, kind in SCORES.items() if kind.task_kind == "aac"}
    clips = [
        replace(clip, scores={**extra, **clip.scores}) if clip.kind == "aac" else clip for clip in side.clips
    ]
    right = {"qa_exact": ClipScore(0, 1), "qa_match": ClipScore(1, 1)}
    clips += [ClipResult(f"q{i}", "QA", "yes", ("Yes.",), "", 3.0, scores=right) for i in range(2)]
    return replace(changed(side, clips), unscored={})


def test_scores_have_clips_intervals_verdicts_and_edits(measured: Measured) -> None:
    report = Report.of(measured(), measured(errors=(2, 2, 3, 2)), environment={})
    by_name = {row[0]: row[1:] for row in quality_rows(report.baseline, report.candidate, report.differences)}
    assert list(by_name) == ["WER\n4 clips", "sub/del/ins\n40 words", "CIDEr-D\n3 clips"]
    before, after, difference, verdict = by_name["WER\n4 clips"]
    low, high = (getattr(report.baseline.scores["wer"], bound) for bound in ("low", "high"))
    assert before == f"0.1000\n({low:.4f}-{high:.4f})" and after.startswith("0.2250\n(")
    assert difference.startswith("+0.1250\n(+0.") and verdict == "within\np 0.12"
    assert by_name["sub/del/ins\n40 words"] == ("4/0/0", "9/0/0", "+5/+0/+0", "")
    assert "| WER 4 clips | 0.1000 (" in report.to_markdown()


def test_the_main_table_has_room_for_the_scores_of_every_kind(measured: Measured) -> None:
    plain, full = measured(), with_all_scores(measured())
    assert rows.main_scores(plain) == ("wer", "cider_d", "spider")
    assert rows.main_scores(measured(cider=())) == ("wer",)
    assert rows.main_scores(full) == ("wer", "spider", "qa_match")
    assert rows.main_scores(plain, replace(full, scores={"qa_match": full.scores["qa_match"]})) == (
        "wer",
        "cider_d",
        "qa_match",
    )
    # Weights and times of a real size, where every figure is widest.
    big = replace(full, weight_bytes=9175 * 2**20, memory=replace(full.memory, peak=9999 * 2**20))
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(Report.of(big, big, environment={}))
    text = captured.get()
    assert "…" not in text and "9175.00  9999.00" in text
    for kind in SCORES.values():
        assert kind.title in text


def test_groups_are_compared_as_the_whole_is(measured: Measured) -> None:
    before, after = measured(), measured(errors=(1, 2, 3, 2))
    compared = group_differences(before, after)
    assert [(group.by, group.name) for group, _, _ in compared] == [
        ("task", "asr"),
        ("task", "audiocaption"),
        ("source", "read"),
        ("source", "outside"),
        ("length", "up to 5 s"),
        ("length", "5 to 10 s"),
    ]
    whole = Report.of(before, after, environment={}).differences
    for group, _, found in compared:
        (name,) = found
        assert found[name] == whole[name] and group.scores[name] == before.scores[name]
    tables = group_rows(before, after)
    assert list(tables) == ["task", "source", "length"]
    assert [row[0] for row in tables["length"]] == ["up to 5 s", "5 to 10 s"]
    assert {row[-1] for row in tables["task"]} == {"too few"}
    text = Report.of(before, after, environment={}).to_markdown()
    assert "### By source" in text and "| read | WER 4 clips | 0.1000 (" in text


def test_groups_without_a_score_are_listed_and_many_sources_are_not(measured: Measured) -> None:
    def speech(index: int, weight: float) -> ClipResult:
        scores = {"wer": ClipScore(0, weight)}
        return ClipResult(str(index), "asr", "", ("",), "", 1.0, source=f"s{index // 3}", scores=scores)

    count = 3 * (MOST_GROUPS + 2)
    side = changed(measured(), [*(speech(i, 0) for i in range(3)), *(speech(i, 5) for i in range(3, count))])
    (table,) = group_rows(side, side).values()
    assert table[0] == ("s0", "not scored\n3 clips", "", "", "", "")
    assert table[-1][0] == "2 more with fewer clips are in report.json"
    assert len(table) == MOST_GROUPS + 1


@pytest.mark.parametrize(("clips", "verdict"), [(9, "too few"), (10, "beyond\np 0.002")])
def test_a_verdict_on_a_group_takes_ten_clips(measured: Measured, clips: int, verdict: str) -> None:
    sides = []
    for errors in (0, 5):
        made = [
            ClipResult(
                f"{source}{i}",
                "asr",
                "",
                ("",),
                "",
                1.0,
                source=source,
                scores={"wer": ClipScore(errors, 10)},
            )
            for source in ("one", "other")
            for i in range(clips)
        ]
        sides.append(changed(measured(), made))
    tables = group_rows(*sides)
    assert [row[-1] for row in tables["source"]] == [verdict, verdict]
