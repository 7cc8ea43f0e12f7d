"""Other words for the same, made of strings alone."""

from __future__ import annotations

import pytest

from audiolm_compress.passes.wordings import (
    Wording,
    crossed,
    edits,
    framings,
    neighbours,
    paraphrases,
    template_edits,
)

FRAME = "<Speech><SpeechHere></Speech> "
ASKED = Wording("You hear well.\nUSER: {}\nASSISTANT:", FRAME + "Please describe the audio, and be brief.")


def test_edits_drop_move_shorten_replace_and_restyle() -> None:
    found = edits(ASKED.words)
    assert {
        "Please describe the audio,",
        "and be brief. Please describe the audio,",
        "describe the audio, and be brief.",
        "Please describe audio, and be brief.",
        "Please caption the audio, and be brief.",
        "Please describe the audio, and be brief",
        "please describe the audio, and be brief.",
    } <= set(found)
    assert len(found) == len(set(found)) and ASKED.words not in found


def test_case_follows_the_word_that_is_replaced() -> None:
    assert "Caption the sounds." in edits("Describe the sounds.")


def test_words_stay_behind_the_audio() -> None:
    assert (ASKED.lead, ASKED.words) == (FRAME, "Please describe the audio, and be brief.")
    assert ASKED.with_words("Sounds?").instruction == FRAME + "Sounds?"
    assert ASKED.with_words("Hear <SpeechHere> now").instruction == "Hear <SpeechHere> now"
    assert Wording("{}", "Listen: <SpeechHere> What is it?").words == "What is it?"
    for near in neighbours(ASKED):
        assert near.instruction.count("<SpeechHere>") == 1 and near.template.count("{}") == 1


def test_templates() -> None:
    assert template_edits(ASKED.template) == ["USER: {}\nASSISTANT:", "You hear well.\nUSER: {}"]
    assert framings("Q: {}", ["Be brief."], ["{}"]) == ["{}", "Be brief.\nQ: {}", "Be brief.\n{}"]
    other = Wording("{}", FRAME + "What is it?")
    assert crossed(ASKED, other) == [
        Wording("{}", ASKED.instruction),
        Wording(ASKED.template, other.instruction),
    ]
    assert crossed(ASKED, ASKED) == []


@pytest.mark.parametrize("metric", ["wer", "cider_d"])
def test_paraphrases_are_many_and_plain(metric: str) -> None:
    found = paraphrases(metric)
    assert len(found) == len(set(found)) > 10
    assert not any("<" in text or "{" in text for text in found)
