"""Decode steps through torch.compile: static shapes, one graph for all steps of a cache.

Attention then reads the whole cache under a mask instead of the columns in use, so that no shape changes from
token to token; the cache's capacity is rounded up coarsely, so that few capacities, and graphs, occur. For
the same reason only single texts are compiled, which is where small operations count most: batches and beams,
whose number of rows changes from call to call, run as they are.
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

        self.note = "decode steps of single texts are compiled by torch.compile"
        self._compiled = torch.compile(self._token, dynamic=False, fullgraph=True)
        self._failures = (RuntimeError, FailOnRecompileLimitHit)  # all others of torch.compile are the former
        self._usable = True

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """As ``Decoder.step``."""
        if not self._usable or cache.batch > 1 or cache.positions is not None:
            return self._decoder.step(tokens, cache)
        cache.reserve(1, COLUMNS)
        table = self._decoder.rotary
        table.reach(cache.capacity)
        cosines, sines = table.cosines[cache.length], table.sines[cache.length]
        column = torch.tensor([cache.length], device=tokens.device)
        try:
            logits = self._compiled(tokens, column, cosines, sines, cache.held())
        except self._failures as error:
            self._usable = False
            reason = (str(error.__cause__ or error).strip() or "no reason given").splitlines()[0]
            self.note = f"decode steps are not compiled: {type(error).__name__}: {reason}"
            warnings.warn(self.note, stacklevel=2)
            return self._decoder.step(tokens, cache)
        cache.advance(1)
        return logits

    def _token(
        self, tokens: Tensor, column: Tensor, cosines: Tensor, sines: Tensor, held: Sequence[Tensor]
    ) -> Tensor:
        decoder = self._decoder
        keys = torch.arange(held[0].shape[3], device=tokens.device)[None]
        masks: dict[int | None, Tensor | None] = {}
        for window in (None, *decoder.windows):
            seen = visible(column[None], column, keys, window)
            masks[window] = (seen if decoder.layers[0].fused else additive(seen, decoder.dtype))[:, None]

        def store(layer: Layer, memory: Tensor, fresh: Tensor) -> Tensor:
            return memory.index_copy_(3, column, fresh[:, :, :, None])

        return decoder.token(tokens, cosines, sines, held, store, masks)
