"""A search believes what fresh clips confirm: real gains and savings, hardly ever chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audiolm_compress.errors import PassError
from audiolm_compress.passes import DecodeSearch
from audiolm_compress.passes.base import Context, Silent
from audiolm_compress.passes.heard_clips import Answer
from audiolm_compress.passes.race import Outcome
from audiolm_compress.passes.search import Search
from audiolm_compress.passes.search_clips import Group, Judge, Split, texts_of
from audiolm_compress.passes.search_report import Verdict, figures, history
from audiolm_compress.salmonn.model import Salmonn

NOW = 0
SEARCH = Search(kind="any")
Losses = np.ndarray  # [candidates, clips]


def found(losses: Losses, prices: Sequence[float] = (), seen: set[int] | None = None) -> Verdict[int]:
    """Search among the rows of ``losses``, the first of which is what the model has."""
    costs = list(prices) or [0.0] * len(losses)

    def outcome(one: int, clips: Sequence[int]) -> Outcome:
        if seen is not None:
            seen.update(clips)
        chosen = losses[one, list(clips)]
        return Outcome(float(chosen.mean()), chosen, np.full(len(chosen), costs[one]))

    def generation(number: int, ranking: Sequence[int]) -> Sequence[int]:
        return range(len(losses)) if number == 0 else ()

    return SEARCH.contest(NOW, generation, outcome, Split.of(losses.shape[1], 0.25), Silent())


def word_errors(seed: int, candidates: int = 20, clips: int = 64) -> Losses:
    """Candidates that are all equally good: hard clips are hard for all, and the rest is chance."""
    generator = np.random.default_rng(seed)
    hard = generator.gamma(0.5, 0.6, clips)
    return generator.poisson(hard, (candidates, clips)).astype(float)


def test_chance_replaces_what_the_model_has_no_oftener_than_promised() -> None:
    """The best of 20 looks far better where it was chosen; 5 % of searches may be deceived, by promise."""
    searches = [found(word_errors(seed)) for seed in range(200)]
    assert np.mean([verdict.winner != NOW for verdict in searches]) <= 0.08
    lucky = [heat for verdict in searches for heat in verdict.heats[0] if heat.stays and heat.clips == 19]
    assert np.mean([heat.contestant != NOW for heat in lucky]) > 0.8, "the races alone are won by chance"


def test_a_fluke_of_the_race_does_not_stand_in_the_way_of_the_second() -> None:
    """Row 1 is perfect where it races and bad afterwards; row 2 answers as now, for less."""
    losses = np.repeat(np.ones((1, 64)), 3, axis=0)
    losses[1, : len(Split.of(64, 0.25).race)] = 0.0
    losses[1, len(Split.of(64, 0.25).race) :] = 2.0
    verdict = found(losses, (0.2, 0.2, 0.1))
    assert [finalist.candidate for finalist in verdict.finalists] == [1, 2]
    assert verdict.winner == 2


def test_a_real_gain_is_found_and_measured_without_bias() -> None:
    gains = []
    for seed in range(40):
        losses = word_errors(seed, clips=128)
        losses[7] *= 0.2
        verdict = found(losses)
        gains.append(verdict.winner == 7)
        assert verdict.held_out[0].figure == pytest.approx(losses[NOW, 96:].mean())
        assert verdict.held_out[1].figure == pytest.approx(losses[verdict.winner, 96:].mean())
    assert np.mean(gains) > 0.8


def test_of_equal_answers_the_cheaper_win_and_those_of_equal_price_do_not() -> None:
    losses = np.repeat(word_errors(0, 1), 3, axis=0)
    assert found(losses, (0.3, 0.2, 0.1)).winner == 2
    assert found(losses, (0.1, 0.2, 0.1)).winner == NOW
    assert not found(losses, (0.1, 0.2, 0.1)).finalists, "none was ahead in the race"


@pytest.mark.parametrize("seed", range(5))
def test_held_out_clips_decide_nothing(seed: int) -> None:
    losses = word_errors(seed)
    losses[3] *= 0.5
    changed = losses.copy()
    changed[:, 48:] = np.random.default_rng(99).permutation(changed[:, 48:]) * 10
    one, other = found(losses), found(changed)
    assert one.winner == other.winner
    assert [(f.candidate, f.p_value) for f in one.finalists] == [
        (f.candidate, f.p_value) for f in other.finalists
    ]
    assert [heat.contestant for heat in one.heats[0]] == [heat.contestant for heat in other.heats[0]]
    assert one.search[0].figure == other.search[0].figure
    assert one.held_out[0].figure != other.held_out[0].figure


def test_every_clip_has_one_part() -> None:
    for clips in range(3, 40):
        split = Split.of(clips, 0.3)
        assert sorted(split.race + split.confirm + split.held_out) == list(range(clips))
        assert split.race and split.confirm and split.held_out


def test_the_history_has_every_look_at_every_candidate(context: Context) -> None:
    verdict = found(word_errors(1))
    group = Group(("asr",), "wer", tuple(context.calibration))
    rows = history(group, verdict, lambda one: {"number": one})
    races = [row for row in rows if row["stage"].startswith("race")]
    assert {row["number"] for row in races} == set(range(20))
    assert [row["clips"] for row in races].count(9) == 20
    assert {row["stage"] for row in rows} == {"race 1", "confirm", "search", "held out"}
    assert figures(group, verdict)["asr: wer held-out before"] == verdict.held_out[0].figure


def judged(context: Context, heard: Callable[[str, int], str]) -> tuple[Judge[str], Split]:
    captions = [example for example in context.calibration if example.task != "asr"]
    texts = ("a dog barks", "rain falls", "birds sing loudly", "a car passes")
    clips = tuple(
        replace(example, text=text, references=(text,)) for example, text in zip(captions, texts, strict=True)
    )
    split = Split.of(len(clips), 0.25)
    judge = Judge(
        Group(("audiocaption",), "cider_d", clips),
        split,
        lambda one, indices: [Answer(heard(one, index), 1) for index in indices],
        lambda one, indices: 0.0,
    )
    return judge, split


def test_answers_are_computed_once_and_rare_words_are_told_by_deciding_clips(context: Context) -> None:
    asked: list[tuple[str, int]] = []

    def heard(one: str, index: int) -> str:
        asked.append((one, index))
        return "a dog barks"

    judge, split = judged(context, heard)
    first, again = judge("now", split.race), judge("now", split.search)
    assert asked == [("now", index) for index in split.search]
    assert again.losses[0] == first.losses[0], "a clip's score does not depend on which others were looked at"
    assert first.figure > 0


def test_too_few_clips(small_model: Callable[[str], Salmonn], context: Context) -> None:
    model = small_model("llama")
    with pytest.raises(PassError, match=r"decode_search: fewest_clips=16, but no task .* more than 4"):
        DecodeSearch().apply(model, context)
    question = replace(context.calibration[0], task="QA")
    search = DecodeSearch(fewest_clips=4)
    few = [*context.calibration[:7], question]
    groups, notes = search.groups(model, few, model.decode_settings, torch.Generator())
    assert [group.metric for group in groups] == ["cider_d"]
    assert any("QA is left as it is: its answers have no score" in note for note in notes)
    assert any("asr is left as it is: 3 calibration clips" in note for note in notes)


def test_an_audio_file_counts_once_with_all_its_texts(
    small_model: Callable[[str], Salmonn], context: Context
) -> None:
    """Else a clip could race under one caption and be held out under another."""
    files = [
        replace(e, path=Path(f"{i // 4}.wav"), text=e.id, references=())
        for i, e in enumerate(context.calibration)
    ]
    model = small_model("llama")
    search = DecodeSearch(fewest_clips=3)
    with pytest.raises(PassError, match="more than 2 calibration clips"):
        search.groups(model, files, model.decode_settings)
    groups, notes = search.groups(model, [*files, *context.calibration], model.decode_settings)
    assert [len(group.clips) for group in groups] == [2 + 4, 2 + 4]
    assert [texts_of(clip) for clip in groups[0].clips[:2]] == [("0", "2"), ("4", "6")]
    assert sum("8 calibration clips of 6 audio files" in note for note in notes) == 2


def test_too_few_clips_to_be_sure_are_told(small_model: Callable[[str], Salmonn], context: Context) -> None:
    model = small_model("llama")
    for confidence, told in ((0.95, True), (0.75, False)):
        search = DecodeSearch(fewest_clips=4, finalists=1, confidence=confidence)
        _, notes = search.groups(model, context.calibration, model.decode_settings)
        assert any("2 confirming clips may be too few" in note for note in notes) is told


def test_clips_without_an_error_are_no_ground_to_change_anything(context: Context) -> None:
    clips = tuple(example for example in context.calibration if example.task == "asr")
    split = Split.of(len(clips), 0.25)
    group = Group(("asr",), "wer", clips)
    for said, saturated in (("the quick brown fox", True), ("the quick brown dog", False)):
        judge: Judge[str] = Judge(
            group, split, lambda one, indices, said=said: [Answer(said, 1)] * len(indices), lambda *_: 0.0
        )
        assert judge.saturated("now") is saturated
