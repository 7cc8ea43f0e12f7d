"""Decode steps through torch.compile: static shapes, one graph for all steps of a cache.

Attention then reads the whole cache under a mask instead of the columns in use, so that no shape changes from
token to token. A token's column and its position are numbers in tensors, and need not be equal: un-padded
audio leaves a gap between positions. The cache's capacity is rounded up coarsely, so that few capacities, and
graphs, occur. For the same reason only single texts are compiled, which is where small operations count most:
batches and beams, whose number of rows changes from call to call, run as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from audiolm_compress.runtime.architecture import Layer
from audiolm_compress.runtime.attention import additive, visible
from audiolm_compress.runtime.cache import Cache
from audiolm_compress.runtime.decoder import Decoder

COLUMNS = 256  # capacities are multiples of this


class CompiledSteps:
    """Steps of a decoder, compiled when the first one is asked for.

    A step is one graph or none: what Dynamo cannot trace, and more shapes than it compiles, would otherwise
    run uncompiled without a word. Compiling can fail for many reasons outside of this package too, such as no
    C++ compiler. Steps then run as they are; ``note`` and a warning say why.

    No CUDA graphs: they need keys and values at one address, and every text has a cache of its own.

    Attributes:
        note: what a reader of timings must know.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        from torch._dynamo.exc import FailOnRecompileLimitHit  # takes seconds, and only compiling needs it

        self.note = "decode steps of single texts are compiled by torch.compile; batches and beams are not"
        self._compiled = torch.compile(self._token, dynamic=False, fullgraph=True)
        self._failures = (RuntimeError, FailOnRecompileLimitHit)  # all others of torch.compile are the former
        self._usable = True

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """As ``Decoder.step``."""
        if not self._usable or cache.batch > 1:
            return self._decoder.step(tokens, cache)
        cache.reserve(1, COLUMNS)
        table = self._decoder.rotary
        table.reach(cache.capacity + cache.ahead)
        column = torch.tensor([cache.length], device=tokens.device)
        position = (column if cache.next_positions is None else cache.next_positions)[:, None]
        cosines, sines = table.cosines[position][:, :, None], table.sines[position][:, :, None]
        keys = cache.positions_of(cache.capacity)
        try:
            logits = self._compiled(tokens, column, position, keys, cosines, sines, cache.held())
        except self._failures as error:
            self._usable = False
            reason = (str(error.__cause__ or error).strip() or "no reason given").splitlines()[0]
            self.note = f"decode steps are not compiled: {type(error).__name__}: {reason}"
            warnings.warn(self.note, stacklevel=2)
            return self._decoder.step(tokens, cache)
        if cache.positions is not None:
            cache.place(position)  # not before: where compiling failed, the decoder's step does so
        cache.advance(1)
        return logits

    def _token(
        self,
        tokens: Tensor,
        column: Tensor,
        position: Tensor,
        keys: Tensor,
        cosines: Tensor,
        sines: Tensor,
        held: Sequence[Tensor],
    ) -> Tensor:
        """The traced step; what differs from token to token is in tensors, whose shapes stay.

        Args:
            tokens: int64 [1].
            column: int64 [1], where the cache has room for the new keys and values.
            position: int64 [1, 1], of the token.
            keys: int64 [1, capacity], positions of the columns before; what stands in others does not matter.
            cosines: [1, 1, 1, head_dim], of the position; looked up outside, as the table grows.
            sines: as ``cosines``.
            held: see ``Cache.layers``.
        """
        decoder = self._decoder
        masks: dict[int | None, Tensor | None] = {}
        for window in (None, *decoder.windows):
            seen = visible(position, column, keys, window)
            masks[window] = (seen if decoder.layers[0].fused else additive(seen, decoder.dtype))[:, None]

        def store(layer: Layer, memory: Tensor, fresh: Tensor) -> Tensor:
            return memory.index_copy_(3, column, fresh[:, :, :, None])

        return decoder.token(tokens, cosines, sines, held, store, masks)
