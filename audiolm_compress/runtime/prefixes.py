"""Keys and values of the constant beginning of prompts, computed once and reused in every later prefill.

A prompt is bos and some text, then the audio, then more text. What comes before the audio is the same for all
clips of a task, and under causal attention its keys and values depend on nothing behind it. So they are
computed when a beginning is met for the first time, and a prefill then starts behind them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm_compress.runtime.attention import NOWHERE
from audiolm_compress.runtime.cache import Cache
from audiolm_compress.runtime.decoder import Decoder

KEPT = 16  # beginnings; a prompt whose question stands before the audio has one of its own each time


@dataclass(frozen=True)
class Rest:
    """What is still to be read of prompts whose beginnings are in the cache.

    Attributes:
        embeds: [batch, length, hidden].
        mask: int64 [batch, length].
        positions: int64 [batch, length], where they have gaps.
    """

    embeds: Tensor
    mask: Tensor
    positions: Tensor | None = None


def columns_of(ids: Sequence[tuple[int, ...]], mask: Tensor) -> int:
    """Columns that a batch takes up: the longest beginning, then the longest rest."""
    lengths = torch.tensor([len(row) for row in ids], device=mask.device)
    return int(lengths.max() + (mask.sum(-1) - lengths).max())


class Prefixes:
    """The beginnings that a decoder has read, by their token ids; the latest used are kept."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._read: OrderedDict[tuple[int, ...], Cache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._read)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values that are kept."""
        return sum(cache.nbytes for cache in self._read.values())

    def of(self, ids: tuple[int, ...]) -> Cache:
        """Keys and values of a beginning of at least one token, as a cache of one row."""
        if ids not in self._read:
            tokens = torch.tensor([ids], device=self._decoder.device)
            cache = self._decoder.new_cache(1, len(ids))
            self._decoder.read(self._decoder.embed(tokens), torch.ones_like(tokens), cache)
            self._read[ids] = cache
            if len(self._read) > KEPT:
                self._read.popitem(last=False)
        self._read.move_to_end(ids)
        return self._read[ids]

    def begin(
        self,
        ids: Sequence[tuple[int, ...]],
        embeds: Tensor,
        mask: Tensor,
        cache: Cache,
        positions: Tensor | None = None,
    ) -> Rest:
        """Put the beginnings of a batch into its empty cache.

        Shorter beginnings are followed by padding, so that the rests start in the same column; positions and
        masks leave the padding out.

        Args:
            ids: of each row's beginning; one of them at least is not empty.
            embeds: [batch, length, hidden] of the whole prompts, padded on the left.
            mask: int64 [batch, length].
            cache: empty, of this batch.
            positions: int64 [batch, length] of whole prompts, where they have gaps, behind the beginnings.
        """
        lengths = [len(row) for row in ids]
        longest = max(lengths)
        known = torch.tensor(lengths, device=mask.device)
        rests = mask.sum(-1) - known
        length = int(rests.max())
        for row, prefix in enumerate(ids):
            if prefix:
                self._copy(self.of(prefix), cache, row)
        if min(lengths) < longest:
            columns = torch.arange(longest, device=mask.device)
            cache.place_prompt(torch.where(columns < known[:, None], columns, NOWHERE))
            cache.next_positions = known
        cache.advance(longest)
        columns = torch.arange(length, device=mask.device)
        return Rest(
            embeds[:, -length:],
            (columns >= length - rests[:, None]).to(mask.dtype),
            None if positions is None else positions[:, -length:],
        )

    @staticmethod
    def _copy(prefix: Cache, cache: Cache, row: int) -> None:
        for index, held in enumerate(prefix.held()):
            target = cache.layers[index]
            if target is None:
                shape = (2, cache.batch, held.shape[2], cache.capacity, held.shape[4])
                target = cache.layers[index] = held.new_zeros(shape)
            target[:, row, :, : prefix.length] = held[:, 0, :, : prefix.length]
