"""Beam search with a prefill that all beams share.

The prompt is read once a clip; its keys and values are repeated for the beams, and when beams branch only
what they have said is reordered. Scores, ties and stopping follow transformers' vectorised search with its
default ``early_stopping=False``: of every clip the best ``(ends + 1) * beams`` (at least ``2 * beams``)
continuations are drawn; those among the best ``beams`` that end are finished, those that do not end go on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm_compress.runtime.answers import Branching, Rules, Search

_NEVER = -1.0e9  # transformers' score of what must not be chosen


class Finished:
    """The best answers that have ended, ``beams`` of every clip.

    Attributes:
        scores: float32 [clips, beams], lengths accounted for; very low while a place is free.
        ended: bool [clips, beams].
        open: bool [clips, 1], whether running beams can still get better than the worst of them.
    """

    def __init__(self, clips: int, search: Search, device: torch.device) -> None:
        beams = search.num_beams
        self._penalty = search.length_penalty
        self._fill = search.ends[0] if search.ends else -1
        self._ids = torch.full((clips, beams, search.max_new_tokens), self._fill, device=device)
        self._lengths = torch.zeros((clips, beams), dtype=torch.int64, device=device)
        self.scores = torch.full((clips, beams), _NEVER, device=device)
        self.ended = torch.zeros((clips, beams), dtype=torch.bool, device=device)
        self.open = torch.ones((clips, 1), dtype=torch.bool, device=device)

    def add(self, ids: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Take those that end and are better.

        Args:
            ids: candidates int64 [clips, candidates, length], best first.
            scores: float32 [clips, candidates], sums of log-probabilities.
            ends: bool [clips, candidates].
        """
        length, beams = ids.shape[2], self.scores.shape[1]
        just = ends.clone()
        just[:, beams:] = False
        scores = scores / length**self._penalty
        scores = scores + (~self.open).float() * _NEVER + (~just).float() * _NEVER
        merged = torch.cat((self.scores, scores), 1)
        best = merged.topk(beams)[1]
        padded = F.pad(ids, (0, self._ids.shape[2] - length), value=self._fill)
        lengths = torch.full_like(best[:, :1], length).expand(-1, ids.shape[1])
        self.scores = merged.gather(1, best)
        self._ids = _take(torch.cat((self._ids, padded), 1), best)
        self._lengths = torch.cat((self._lengths, lengths), 1).gather(1, best)
        self.ended = torch.cat((self.ended, just), 1).gather(1, best)

    def look_ahead(self, running: Tensor, length: int) -> None:
        """Close clips whose best running beam, at its length so far, is no better than their worst answer."""
        hoped = running[:, :1] / length**self._penalty
        worst = torch.where(self.ended, self.scores.amin(1, keepdim=True), _NEVER)
        self.open &= (hoped > worst).any(-1, keepdim=True)

    def best(self) -> Tensor:
        """The best answer of every clip: int64 [clips, tokens of the longest]."""
        return self._ids[:, 0, : int(self._lengths[:, 0].max())]


@torch.inference_mode()
def beam_search(logits: Tensor, reading: Branching, search: Search, mask: Tensor) -> Tensor:
    """Answer a batch of prompts; arguments and result as those of ``greedy``."""
    clips, beams = len(logits), search.num_beams
    device = logits.device
    rules = Rules(search, mask)
    ends = torch.tensor(search.ends, dtype=torch.int64, device=device)
    candidates = max(2, 1 + len(search.ends)) * beams
    reading.expand(beams)
    logits = logits.repeat_interleave(beams, 0)
    finished = Finished(clips, search, device)
    ids = torch.empty((clips, beams, 0), dtype=torch.int64, device=device)
    # All beams of a clip are still the same: only the first may branch.
    scores = torch.zeros((clips, beams), device=device)
    scores[:, 1:] = _NEVER
    first_rows = torch.arange(clips, device=device)[:, None] * beams
    while True:
        logprobs = rules(F.log_softmax(logits.float(), -1), ids.flatten(0, 1))
        vocabulary = logprobs.shape[-1]
        totals = logprobs.view(clips, beams, vocabulary) + scores[:, :, None]
        top_scores, top = totals.view(clips, -1).topk(candidates)
        parents, tokens = top // vocabulary, top % vocabulary
        longer = torch.cat((_take(ids, parents), tokens[:, :, None]), 2)
        length = longer.shape[2]
        stops = (
            torch.isin(tokens, ends)
            if length < search.max_new_tokens
            else torch.ones_like(tokens, dtype=torch.bool)
        )
        running = top_scores + stops.float() * _NEVER
        kept = running.topk(beams)[1]
        scores = running.gather(1, kept)
        finished.add(longer, top_scores, stops)
        finished.look_ahead(scores, length)
        if bool(stops.all()) or not bool(finished.open.any()):
            return finished.best()
        ids = _take(longer, kept)
        reading.reorder((parents.gather(1, kept) + first_rows).flatten())
        logits = reading.step(ids[:, :, -1].flatten())


def _take(rows: Tensor, indices: Tensor) -> Tensor:
    """``rows`` [clips, n, length] at ``indices`` [clips, m]: [clips, m, length]."""
    return rows.gather(1, indices[:, :, None].expand(-1, -1, rows.shape[2]))
