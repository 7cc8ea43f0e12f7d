"""Word error rate over a whole test set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.normalise import whisper_english, words_13a


@dataclass(frozen=True)
class Edits:
    """What turns a reference into what was recognised, counted in words.

    Attributes:
        substitutions: wrong words.
        deletions: missing words.
        insertions: superfluous words.
        words: words of the reference.
    """

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @classmethod
    def total(cls, edits: Iterable[Edits]) -> Edits:
        """Summed over clips."""
        counted = list(edits)
        return cls(*(sum(getattr(clip, field.name) for clip in counted) for field in fields(cls)))


@dataclass(frozen=True)
class WerResult:
    """Errors summed over all clips, divided by the summed reference words.

    Attributes:
        wer: 0 is perfect; above 1 is possible, as insertions count.
        edits: of all clips.
        per_clip: of each clip, in the order given.
    """

    wer: float
    edits: Edits
    per_clip: tuple[Edits, ...]


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
    per_clip = []
    for hypothesis, reference in zip(hypotheses, references_words, strict=True):
        output = jiwer.process_words(" ".join(reference), " ".join(comparable_words(hypothesis)))
        per_clip.append(Edits(output.substitutions, output.deletions, output.insertions, len(reference)))
    edits = Edits.total(per_clip)
    return WerResult(wer=edits.errors / words, edits=edits, per_clip=tuple(per_clip))
