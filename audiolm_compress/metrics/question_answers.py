"""Accuracy of answers to questions about audio: the answer must be one of the references.

Exact match takes the texts as they are. Normalised match forgives case, punctuation and articles, as is usual
since SQuAD (arXiv:1606.05250); numbers and spelling are brought together by Whisper's English normaliser, as
for WER.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.normalise import whisper_english

_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Match:
    """Whether one answer equals a reference, as it is and normalised."""

    exact: bool
    normalised: bool


def comparable_answer(text: str) -> str:
    """An answer without case, punctuation and articles.

    Where nothing else is said they stay: the choice "A" is no article, and "?" does not equal "!".

    >>> comparable_answer("The dog."), comparable_answer("A"), comparable_answer("?")
    ('dog', 'a', '?')
    """
    words = whisper_english(text).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words) or text.strip()


def match_answers(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Match]:
    """Compare each answer with its references; any of them counts.

    Args:
        answers: one a question.
        references: of each question, at least one with text; empty ones do not count.

    Raises:
        DataError: the numbers differ, or a question has no reference with text.
    """
    if len(answers) != len(references):
        raise DataError(f"answers: {len(answers)} for {len(references)} questions; give one each")
    found = []
    for index, (answer, texts) in enumerate(zip(answers, references, strict=True)):
        right = [text for text in texts if text.strip()]
        if not right:
            raise DataError(f"answers: question {index} has no reference answer, so it cannot be scored")
        found.append(
            Match(
                exact=answer.strip() in {text.strip() for text in right},
                normalised=comparable_answer(answer) in {comparable_answer(text) for text in right},
            )
        )
    return found
