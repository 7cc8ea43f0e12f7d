"""What greedy and beam search share: their settings, and what changes scores before tokens are chosen.

Rules and order are those of transformers' ``generate`` with embeddings as its input, so that the ids are
equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Search:
    """How an answer is searched.

    Attributes:
        max_new_tokens: longest answer.
        ends: ids that end an answer.
        pad: id that fills up the answers of a batch behind their end.
        min_length: shortest answer, the prompt counted, as transformers counts it.
        repetition_penalty: above 1, tokens of the answer so far become less likely (arXiv:1909.05858).
        num_beams: 1 is greedy.
        length_penalty: exponent of the length that the score of a finished beam is divided by.
    """

    max_new_tokens: int
    ends: tuple[int, ...]
    pad: int
    min_length: int = 0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0


class Reading(Protocol):
    """A batch of texts that has been read so far, and can be read on."""

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each text, int64 [batch]; logits of the next, [batch, vocabulary]."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in all layers, as they lie in memory."""


class Branching(Reading, Protocol):
    """A reading whose rows can be repeated and exchanged."""

    def expand(self, times: int) -> None:
        """Repeat every row ``times`` times."""

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on where row ``rows[i]`` of the same prompt stands."""


class Rules:
    """What changes scores before the next token is chosen.

    Args:
        search: the settings.
        mask: of the prompts, int64 [batch, length], padded on the left.
    """

    def __init__(self, search: Search, mask: Tensor) -> None:
        self._penalty = search.repetition_penalty
        self._forbidden = max(search.min_length - mask.shape[1], 0) if search.ends else 0
        self._ends = torch.tensor(search.ends, dtype=torch.int64, device=mask.device)
        # transformers leaves out the padding of a prompt by counting from the first id it is given. Given
        # embeddings, that is the first id of the answer: behind n paddings, the first n tokens go unpunished.
        padding = mask.shape[1] - mask.sum(-1)
        self._unpunished = padding.repeat_interleave(search.num_beams) if bool(padding.any()) else None
        self.none = self._penalty == 1.0 and not self._forbidden

    def __call__(self, scores: Tensor, ids: Tensor) -> Tensor:
        """``scores`` float32 [rows, vocabulary] after the answers ``ids`` int64 [rows, tokens so far]."""
        if self._penalty != 1.0 and ids.shape[1]:
            scores = self._punish(scores, ids)
        if ids.shape[1] < self._forbidden:
            scores = scores.index_fill(1, self._ends, -torch.inf)
        return scores

    def _punish(self, scores: Tensor, ids: Tensor) -> Tensor:
        found = scores.gather(1, ids)
        punished = torch.where(found < 0, found * self._penalty, found / self._penalty)
        if self._unpunished is None:
            return scores.scatter(1, ids, punished)
        # Ids that count go to their place, others to a column behind the vocabulary.
        vocabulary = scores.shape[1]
        early = torch.arange(ids.shape[1], device=ids.device) < self._unpunished[:, None]
        wider = torch.nn.functional.pad(scores, (0, 1))
        return wider.scatter(1, ids.masked_fill(early, vocabulary), punished)[:, :vocabulary]
