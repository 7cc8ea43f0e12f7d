"""Greedy search: the likeliest token, again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from audiolm_compress.runtime.answers import Reading, Rules, Search


@torch.inference_mode()
def greedy(logits: Tensor, reading: Reading, search: Search, mask: Tensor) -> Tensor:
    """Answer a batch of prompts.

    Args:
        logits: after the prompts, [batch, vocabulary].
        reading: the prompts as read.
        search: when to stop, and what to punish.
        mask: of the prompts, int64 [batch, length].

    Returns:
        int64 [batch, tokens], as long as the longest answer; shorter ones are filled up with ``search.pad``.
    """
    rules = Rules(search, mask)
    ends = frozenset(search.ends)
    done = [False] * len(logits)
    chosen: list[Tensor] = []
    while True:
        if not rules.none:
            ids = torch.stack(chosen, 1) if chosen else mask.new_empty(len(mask), 0)
            logits = rules(logits.float(), ids)
        tokens = logits.argmax(-1)
        values = tokens.tolist()
        if any(done):
            tokens = tokens.masked_fill(torch.tensor(done, device=tokens.device), search.pad)
        chosen.append(tokens)
        done = [was or value in ends for was, value in zip(done, values, strict=True)]
        if all(done) or len(chosen) == search.max_new_tokens:
            return torch.stack(chosen, 1)
        logits = reading.step(tokens)
