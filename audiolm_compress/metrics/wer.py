"""Word error rate over a whole test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.normalise import whisper_english, words_13a


@dataclass(frozen=True)
class ClipErrors:
    """Substitutions, deletions and insertions of one clip (``errors``) and the ``words`` of its reference."""

    errors: int
    words: int


@dataclass(frozen=True)
class WerResult:
    """Errors summed over all clips, divided by the summed reference words.

    Attributes:
        wer: 0 is perfect; above 1 is possible, as insertions count.
        substitutions: wrong words.
        deletions: missing words.
        insertions: superfluous words.
        words: words of all references.
        per_clip: the same per clip, in the order given.
    """

    wer: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    per_clip: tuple[ClipErrors, ...]


def comparable_words(text: str) -> list[str]:
    """The words that are compared: Whisper's English normaliser, then 13a tokens without punctuation."""
    return words_13a(whisper_english(text))


def wer(hypotheses: Sequence[str], references: Sequence[str]) -> WerResult:
    """Corpus-level word error rate, as the upstream evaluation computes it.

    Args:
        hypotheses: recognised texts.
        references: what was said; one may be empty, then every recognised word is an insertion.

    Raises:
        DataError: the numbers of texts differ, or no reference holds a word.
    """
    import jiwer

    if len(hypotheses) != len(references):
        raise DataError(f"wer: {len(hypotheses)} hypotheses for {len(references)} references; give one each")
    references_words = [comparable_words(text) for text in references]
    words = sum(len(reference) for reference in references_words)
    if words == 0:
        raise DataError(f"wer: no words in {len(references)} references, so no rate can be given")
    counts = []
    for hypothesis, reference in zip(hypotheses, references_words, strict=True):
        output = jiwer.process_words(" ".join(reference), " ".join(comparable_words(hypothesis)))
        counts.append((output.substitutions, output.deletions, output.insertions))
    substitutions, deletions, insertions = (sum(column) for column in zip(*counts, strict=True))
    return WerResult(
        wer=(substitutions + deletions + insertions) / words,
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        words=words,
        per_clip=tuple(
            ClipErrors(errors=sum(count), words=len(reference))
            for count, reference in zip(counts, references_words, strict=True)
        ),
    )
