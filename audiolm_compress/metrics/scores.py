"""The scores that answers can have: the one table that measuring, reports and searches go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ScoredKind = Literal["asr", "aac", "qa"]


@dataclass(frozen=True)
class ScoreKind:
    """What a score is.

    Attributes:
        name: in JSON, CSV and goals.
        title: in reports.
        task_kind: the kind of clips that have it.
        lower_is_better: whether less is better.
    """

    name: str
    title: str
    task_kind: ScoredKind
    lower_is_better: bool = False


# In the order of columns. A corpus figure is sum(amounts) / sum(weights) over clips: word errors over
# reference words of WER, scores over ones elsewhere.
SCORES: Mapping[str, ScoreKind] = {
    kind.name: kind
    for kind in (
        ScoreKind("wer", "WER", "asr", lower_is_better=True),
        ScoreKind("cider_d", "CIDEr-D", "aac"),
        ScoreKind("spider", "SPIDEr", "aac"),
        ScoreKind("spice", "SPICE", "aac"),
        ScoreKind("similarity", "similarity", "aac"),
        ScoreKind("fense", "FENSE", "aac"),
        ScoreKind("qa_exact", "QA exact", "qa"),
        ScoreKind("qa_match", "QA match", "qa"),
    )
}
