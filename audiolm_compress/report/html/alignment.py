"""Which words of an answer differ from another text, by the alignment that the word error rate counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["equal", "substitute", "delete", "insert"]


class Word(NamedTuple):
    """One word of an alignment.

    Attributes:
        kind: what became of it.
        text: the word of the answer; of a deleted one, the word that is missing.
        instead_of: the word that a substituted one stands for, else "".
    """

    kind: Kind
    text: str
    instead_of: str = ""


def aligned(reference: Sequence[str], answer: Sequence[str]) -> list[Word]:
    """The words of ``answer`` in order, with those of ``reference`` that it lacks.

    Args:
        reference: words to compare with; none may hold white space.
        answer: words that are shown; none may hold white space.

    The alignment is one of those with the fewest edits (Levenshtein 1966), as jiwer finds it, so the marks
    add up to the substitutions, deletions and insertions of the word error rate.

    >>> [(word.kind, word.text) for word in aligned(["rain", "falls"], ["rain", "drops", "fall"])]
    [('equal', 'rain'), ('insert', 'drops'), ('substitute', 'fall')]
    """
    import jiwer

    (chunks,) = jiwer.process_words(" ".join(reference), " ".join(answer)).alignments
    words: list[Word] = []
    for chunk in chunks:
        there = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        here = answer[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            words += [Word("delete", text) for text in there]
        elif chunk.type == "substitute":
            words += [Word("substitute", text, old) for text, old in zip(here, there, strict=True)]
        elif chunk.type == "insert":
            words += [Word("insert", text) for text in here]
        else:
            words += [Word("equal", text) for text in here]
    return words
