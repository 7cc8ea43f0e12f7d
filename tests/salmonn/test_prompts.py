"""Prompts: where the audio goes, and what is said when it has no place."""

from __future__ import annotations

import pytest

from audiolm_compress.errors import DataError
from audiolm_compress.salmonn.prompts import Prompts

PROMPTS = Prompts(
    "USER: {}\nASSISTANT:",
    {"asr": "<Speech><SpeechHere></Speech> Transcribe.", "QA": "<Speech><SpeechHere></Speech> {}"},
    {"gender": ("<SpeechHere> Who speaks?", "Who is it? <SpeechHere>")},
)


def test_parts_around_the_audio() -> None:
    assert PROMPTS.around("asr") == ("USER: <Speech>", "</Speech> Transcribe.\nASSISTANT:")
    assert PROMPTS.around("gender") == ("USER: ", " Who speaks?\nASSISTANT:")


def test_own_words_follow_the_audio() -> None:
    assert PROMPTS.around("any", "What {is} it?") == ("USER: <Speech>", "</Speech> What {is} it?\nASSISTANT:")
    assert PROMPTS.around("any", "First <SpeechHere> then") == ("USER: First ", " then\nASSISTANT:")


def test_question_fills_the_braces() -> None:
    assert PROMPTS.around("QA", question="How many {dogs}?")[1] == "</Speech> How many {dogs}?\nASSISTANT:"


def test_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="QA, asr, gender"):
        PROMPTS.around("music")


@pytest.mark.parametrize("text", ["no slot", "<SpeechHere><SpeechHere>"])
def test_one_slot_exactly(text: str) -> None:
    with pytest.raises(DataError, match="exactly once"):
        Prompts(test={"asr": text})


def test_two_slots_in_own_words() -> None:
    with pytest.raises(DataError, match="exactly once"):
        PROMPTS.around("asr", "<SpeechHere> and <SpeechHere>")


def test_round_trip() -> None:
    assert Prompts.from_dict(PROMPTS.to_dict()) == PROMPTS
