"""Scores from answers: of each clip, of the test set and of groups of clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audiolm_compress.measurement.measurements import ClipResult, ClipScore, Edits
from audiolm_compress.measurement.scoring import score
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.metrics.bootstrap import interval
from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.wer import wer


def clip(identity: str, task: str, text: str, *references: str) -> ClipResult:
    return ClipResult(identity, task, text, references, f"{identity}.wav", 2.0)


CLIPS = (
    clip("a", "asr", "the cat sat", "The cat sat."),
    clip("b", "audiocaption", "rain falls", "rain is falling", "Rain falls."),
    clip("c", "asr", "a dog", "the dog barks"),
    clip("d", "QA", "two", ""),
    clip("e", "audiocaption", "a bell rings", "a bell rings twice"),
)


def test_scores_by_kind_of_task() -> None:
    found = score(CLIPS)
    recognition = wer(["the cat sat", "a dog"], ["The cat sat.", "the dog barks"])
    captions, per_clip = cider_d(
        ["rain falls", "a bell rings"], [["rain is falling", "Rain falls."], ["a bell rings twice"]]
    )
    assert found.scores["wer"].value == recognition.wer == pytest.approx(2 / 6)
    assert found.scores["cider_d"].value == pytest.approx(captions) and captions > 0
    assert [scored.edits for scored in found.clips] == [
        Edits(0, 0, 0, 3),
        None,
        Edits(1, 1, 0, 3),
        None,
        None,
    ]
    assert found.edits == Edits(substitutions=1, deletions=1, insertions=0, words=6)
    assert [dict(scored.scores) for scored in found.clips] == [
        {"wer": ClipScore(0, 3)},
        {"cider_d": ClipScore(per_clip[0], 1)},
        {"wer": ClipScore(2, 3)},
        {},
        {"cider_d": ClipScore(per_clip[1], 1)},
    ]
    assert found.not_scored == 1
    bounds = interval([0, 2], [3, 3])
    assert (found.scores["wer"].low, found.scores["wer"].high) == (bounds.low, bounds.high)
    assert [scored.text for scored in found.clips] == [given.text for given in CLIPS]


def test_one_caption_clip_is_not_scored_but_said() -> None:
    found = score(CLIPS[:2])
    assert "cider_d" not in found.scores and found.not_scored == 1
    assert "at least two caption clips" in found.unscored["cider_d"]


def test_test_set_without_captions_or_without_speech() -> None:
    assert score([CLIPS[0]]).unscored == {}
    assert "wer" not in score([CLIPS[1], CLIPS[4]]).scores


def test_questions_are_scored_where_an_answer_is_known() -> None:
    clips = [
        clip("a", "QA", "the dog", "a dog", "hound"),
        clip("b", "qa_sound", "two", "3"),
        clip("c", "QA", "yes", ""),
        clip("d", "QA", "hound", "a dog", "hound"),
    ]
    found = score(clips)
    assert found.scores["qa_exact"].value == pytest.approx(1 / 3)
    assert found.scores["qa_match"].value == pytest.approx(2 / 3)
    assert found.scores["qa_match"].clips == 3 and found.not_scored == 1
    assert "qa_match" in score([clips[2]]).unscored


def test_scores_that_need_a_model_say_how_to_get_it() -> None:
    found = score([CLIPS[1], CLIPS[4]])
    for name in ("similarity", "fense"):
        assert "benchmark.sentence_model" in found.unscored[name]


def test_scores_of_before_are_computed_anew() -> None:
    wrong = replace(CLIPS[0], edits=Edits(9, 9, 9, 9), scores={"cider_d": ClipScore(1, 1)})
    assert score([wrong, CLIPS[2]]) == score([CLIPS[0], CLIPS[2]])


def test_groups_by_source_and_length_are_scored_as_if_alone() -> None:
    """Twelve clips: every second one long and of another source, with an error more."""
    clips = [
        replace(
            clip(str(index), "asr", "rain falls down" if index % 2 else "rain falls", "rain falls"),
            seconds=10.0 if index % 2 else 5.0,
            source="far" if index % 2 else "",
        )
        for index in range(12)
    ]
    found = score(clips, settings=BenchmarkSettings(length_edges=(5.0, 9.0)))
    assert [(group.by, group.name, group.clips) for group in found.groups] == [
        ("source", "", 6),
        ("source", "far", 6),
        ("length", "up to 5 s", 6),
        ("length", "over 9 s", 6),
    ]
    values = [group.scores["wer"].value for group in found.groups]
    assert values == [0.0, 0.5, 0.0, 0.5] and found.scores["wer"].value == 0.25
    for group in found.groups:
        assert group.scores == score([c for c in clips if group.holds(c)]).scores
    assert found.notes == ()


def test_clips_of_unknown_length_are_in_no_group_by_length() -> None:
    clips = [replace(clip(str(i), "asr", "one two", "one two"), seconds=i % 3 * 6.0) for i in range(6)]
    found = score(clips, settings=BenchmarkSettings(length_edges=(5.0, 9.0)))
    assert [(group.name, group.clips) for group in found.groups] == [("5 to 9 s", 2), ("over 9 s", 2)]
    assert "groups by length: 2 clips of unknown length are in none" in found.notes
    alone = [replace(one, seconds=0.0) for one in clips]
    assert score(alone).groups == () and score(alone).notes == ()


def test_only_the_largest_of_many_groups_are_kept() -> None:
    """Sixty sources: ten of three clips, fifty of two."""
    clips = [
        replace(clip(f"{source}-{index}", "asr", "a word", "a word"), source=str(source))
        for source in range(60)
        for index in range(3 if source >= 50 else 2)
    ]
    found = score(clips)
    assert [group.name for group in found.groups] == [str(source) for source in (*range(40), *range(50, 60))]
    assert found.notes[0].startswith("groups by source: 10 of 60 left out")


def test_single_clips_and_clips_without_words_are_no_figures_of_their_own() -> None:
    clips = [
        replace(clip("a", "asr", "a word", "a word"), source="one"),
        replace(clip("b", "asr", "a word", "a word"), source="one"),
        replace(clip("c", "asr", "", ""), source="silence"),
        replace(clip("d", "asr", "noise", ""), source="silence"),
        replace(clip("e", "asr", "a word", "a word"), source="single"),
    ]
    found = score(clips)
    assert [(group.name, list(group.scores)) for group in found.groups] == [("one", ["wer"]), ("silence", [])]
    assert found.notes == (
        "groups by source: 1 of 3 left out, as they hold fewer than 2 clips or are not among the 50 with the "
        "most",
    )
    assert found.clips[3].scores["wer"].value is None
    assert np.isfinite(found.scores["wer"].high)
