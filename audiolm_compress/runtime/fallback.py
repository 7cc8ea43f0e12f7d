"""The decoder's interface over transformers' own forward, for LLMs that the decoder does not know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ForwardContinuation:
    """Texts that transformers' forward has read."""

    def __init__(self, llm: Any, embeds: Tensor, mask: Tensor, positions: Tensor | None) -> None:
        """Read prompts; arguments as those of ``prefill``."""
        self._llm = llm
        self._mask = mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0) if positions is None else positions
        self._position = positions[:, -1:]
        output = llm(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits: Tensor = output.logits[:, -1]
        self._cache = output.past_key_values

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each text, int64 [batch]; logits of the next, [batch, vocabulary]."""
        self._position = self._position + 1
        self._mask = torch.cat((self._mask, self._mask.new_ones((len(tokens), 1))), dim=1)
        output = self._llm(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        return output.logits[:, -1]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in all layers; a layer may keep no more than its window."""
        return sum(
            held.nbytes // (held.shape[0] * held.shape[-2])
            for layer in self._cache.layers
            for held in (layer.keys, layer.values)
        )


@torch.inference_mode()
def prefill(
    llm: Any, embeds: Tensor, mask: Tensor, positions: Tensor | None = None
) -> tuple[Tensor, ForwardContinuation]:
    """Read a batch of prompts.

    Args:
        llm: a causal LM of transformers, or a peft model around one.
        embeds: [batch, length, hidden], the embedding scale applied.
        mask: int64 [batch, length], padded on the left.
        positions: int64 [batch, length], where they have gaps.

    Returns:
        Logits of the next token [batch, vocabulary], and the texts to read on.
    """
    continuation = ForwardContinuation(llm, embeds, mask, positions)
    return continuation.logits, continuation
