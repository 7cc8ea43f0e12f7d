"""Accuracy of answers to questions."""

from __future__ import annotations

import pytest

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.question_answers import Match, comparable_answer, match_answers


@pytest.mark.parametrize(
    ("answer", "references", "exact", "normalised"),
    [
        ("a dog", ["a dog"], True, True),
        (" a dog ", ["a dog"], True, True),
        ("The Dog!", ["a dog"], False, True),
        ("a cat", ["a dog", "the cat"], False, True),
        ("two", ["2"], False, True),
        ("it's grey", ["it is gray"], False, True),
        ("a dog barks", ["a dog"], False, False),
        ("A", ["B"], False, False),
        ("a", ["A"], False, True),
        ("the", ["a"], False, False),
        ("", ["a dog"], False, False),
        ("?", ["!"], False, False),
        ("", ["", "yes"], False, False),
    ],
)
def test_matches(answer: str, references: list[str], exact: bool, normalised: bool) -> None:
    assert match_answers([answer], [references]) == [Match(exact, normalised)]


def test_articles_go_only_where_something_is_left() -> None:
    assert comparable_answer("An old man, the driver.") == "old man driver"
    assert comparable_answer("An") == "an"


def test_impossible_inputs() -> None:
    with pytest.raises(DataError, match="1 for 2 questions"):
        match_answers(["yes"], [["yes"], ["no"]])
    with pytest.raises(DataError, match="question 1 has no reference answer"):
        match_answers(["yes", "no"], [["yes"], [" "]])
