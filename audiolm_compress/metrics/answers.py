"""Answers scored clip by clip under the metric of their kind, in the form that comparisons take.

A figure is sum(amounts) / sum(weights) over clips: word errors over reference words, or CIDEr-D over ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.wer import wer

Metric = Literal["wer", "cider_d"]


@dataclass(frozen=True)
class AnswerScores:
    """Scores of some clips.

    Attributes:
        metric: what was counted.
        amounts: float64 [clips].
        weights: float64 [clips].
    """

    metric: Metric
    amounts: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def figure(self) -> float:
        """The metric over all clips."""
        return float(self.amounts.sum() / self.weights.sum())

    @property
    def losses(self) -> NDArray[np.float64]:
        """Float64 [clips], less is better; the mean is the WER, or minus the CIDEr-D."""
        sign = 1.0 if self.metric == "wer" else -1.0
        return sign * self.amounts * len(self.weights) / self.weights.sum()


def score_answers(
    metric: Metric, texts: Sequence[str], references: Sequence[Sequence[str]], corpus: Sequence[Sequence[str]]
) -> AnswerScores:
    """Score answers against the references of their clips.

    Args:
        metric: ``wer`` goes by the first reference of each clip, ``cider_d`` by all.
        texts: one answer a clip.
        references: of each clip, at least one.
        corpus: references of all clips whose words CIDEr-D counts to tell the rare ones, those of
            ``references`` not among them; scores under the same set of clips can be compared.

    Raises:
        DataError: no reference holds a word, or CIDEr-D finds fewer than two clips.
    """
    if metric == "wer":
        result = wer(texts, [many[0] for many in references])
        amounts = np.array([clip.errors for clip in result.per_clip], float)
        return AnswerScores(metric, amounts, np.array([clip.words for clip in result.per_clip], float))
    # A clip's score knows of the others' references alone, so these need no answers.
    _, scores = cider_d([*texts, *("" for _ in corpus)], [*references, *corpus])
    amounts = np.array(scores[: len(texts)], float)
    return AnswerScores(metric, amounts, np.ones(len(texts)))
