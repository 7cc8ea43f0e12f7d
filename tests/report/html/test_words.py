"""The marks on words add up to the word errors that are reported."""

from __future__ import annotations

from collections import Counter

import pytest

from audiolm_compress.metrics.wer import comparable_words, wer
from audiolm_compress.report.html.alignment import aligned

PAIRS = (
    ("users will join the conference", "user's mail conference"),
    ("It costs twenty-one dollars.", "it cost $21"),
    ("please hold", ""),
    ("", "hello hello"),
    ("one two three", "one two three"),
    ("right \u202eleft", "right left <b>"),
)


@pytest.mark.parametrize(("reference", "answer"), PAIRS)
def test_marks_add_up_to_the_edits(reference: str, answer: str) -> None:
    words = aligned(comparable_words(reference), comparable_words(answer))
    kinds = Counter(word.kind for word in words)
    edits = wer([answer, "a"], [reference, "a"]).per_clip[0]
    assert (kinds["substitute"], kinds["delete"], kinds["insert"]) == (
        edits.substitutions,
        edits.deletions,
        edits.insertions,
    )
    assert [word.text for word in words if word.kind != "delete"] == comparable_words(answer)
    kept = [word.instead_of or word.text for word in words if word.kind != "insert"]
    assert kept == comparable_words(reference)
