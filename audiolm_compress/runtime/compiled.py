"""Decode steps through torch.compile: static shapes, one graph for all steps of a cache.

Attention then reads the whole cache under a mask instead of the columns in use, so that no shape changes from
token to token; the cache's capacity is rounded up coarsely, so that few capacities, and graphs, occur.
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

    Compiling can fail for many reasons outside of this package: no C++ compiler, a kernel that cannot be
    traced. Steps then run as they are; ``note`` and a warning say why.

    Attributes:
        note: what a reader of timings must know.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        cuda = decoder.device.type == "cuda"
        mode = "reduce-overhead" if cuda else "default"
        self.note = f"decode steps are compiled by torch.compile, mode {mode}"
        self._compiled = torch.compile(self._token, dynamic=False, mode=mode)
        self._usable = True

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """As ``Decoder.step``."""
        if not self._usable:
            return self._decoder.step(tokens, cache)
        cache.reserve(1, COLUMNS)
        self._decoder.rotary.reach(cache.capacity)
        column = torch.tensor([cache.length], device=tokens.device)
        positions = column[None] if cache.next_positions is None else cache.next_positions[:, None]
        keys = torch.arange(cache.capacity, device=tokens.device)[None]
        if cache.next_positions is not None:
            cache.place(positions)
            assert cache.positions is not None
            keys = cache.positions
        table = self._decoder.rotary
        cosines, sines = table.cosines[positions][:, :, None], table.sines[positions][:, :, None]
        try:
            logits = self._compiled(tokens, column, positions, keys, cosines, sines, cache.held())
        except RuntimeError as error:  # all that torch.compile raises of its own is one
            self._usable = False
            reason = str(error).strip().splitlines()[0]
            self.note = f"decode steps are not compiled: {type(error).__name__}: {reason}"
            warnings.warn(self.note, stacklevel=2)
            if cache.next_positions is not None:
                cache.next_positions = positions[:, 0]
            return self._decoder.step(tokens, cache)
        cache.advance(1)
        return logits

    def _token(
        self,
        tokens: Tensor,
        column: Tensor,
        positions: Tensor,
        keys: Tensor,
        cosines: Tensor,
        sines: Tensor,
        held: Sequence[Tensor],
    ) -> Tensor:
        decoder = self._decoder
        masks: dict[int | None, Tensor | None] = {}
        for window in (None, *decoder.windows):
            seen = visible(positions, column, keys, window)
            masks[window] = (seen if decoder.layers[0].fused else additive(seen, decoder.dtype))[:, None]

        def store(layer: Layer, memory: Tensor, fresh: Tensor) -> Tensor:
            return memory.index_copy_(3, column, fresh[:, :, :, None])

        return decoder.token(tokens, cosines, sines, held, store, masks)
