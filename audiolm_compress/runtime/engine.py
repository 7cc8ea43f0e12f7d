"""One decoder a model, kept from answer to answer as long as the model's weights are the same."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiolm_compress.runtime.cache import STEP, Cache
from audiolm_compress.runtime.compiled import COLUMNS, CompiledSteps
from audiolm_compress.runtime.decoder import Decoder
from audiolm_compress.runtime.prefixes import Prefixes, columns_of


class Continuation:
    """Texts that have been read, and can be read on; what ``greedy`` and ``beam_search`` work with."""

    def __init__(self, steps: Decoder | CompiledSteps, cache: Cache) -> None:
        self.cache = cache
        self._steps = steps
        self._shared = cache.length

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each text, int64 [batch]; logits of the next, [batch, vocabulary]."""
        return self._steps.step(tokens, self.cache)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        return self.cache.bytes_per_token

    def expand(self, times: int) -> None:
        """Repeat every row ``times`` times."""
        self.cache.expand(times)

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on where row ``rows[i]`` of the same prompt stands; the prompt itself stays."""
        self.cache.reorder(rows, self._shared)


class Engine:
    """Prefill of batches, with the beginnings of prompts read once where that is asked for."""

    def __init__(self, llm: PreTrainedModel, *, compiled: bool = False) -> None:
        self.decoder = Decoder(llm)
        self.compiled = CompiledSteps(self.decoder) if compiled else None
        self.prefixes = Prefixes(self.decoder)
        self._seen = _Weights(llm)

    @property
    def note(self) -> str:
        """What a reader of timings must know; "" if there is nothing."""
        return "" if self.compiled is None else self.compiled.note

    def fits(self, llm: PreTrainedModel) -> bool:
        """Whether the weights of ``llm`` are those that this engine was made for."""
        return self._seen.unchanged(llm)

    @torch.inference_mode()
    def prefill(
        self,
        embeds: Tensor,
        mask: Tensor,
        prefixes: Sequence[tuple[int, ...]] | None = None,
        room: int = STEP,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Continuation]:
        """Read a batch of prompts.

        Args:
            embeds: [batch, length, hidden], the embedding scale applied.
            mask: int64 [batch, length], padded on the left.
            prefixes: token ids of each row's constant beginning, to be read once and reused; None reads all.
            room: new tokens that the cache has memory for; it grows when there are more.
            positions: int64 [batch, length], where they have gaps.

        Returns:
            Logits of the next token [batch, vocabulary], and the texts to read on.
        """
        begun = prefixes if prefixes and any(prefixes) else None
        columns = room + (columns_of(begun, mask) if begun else mask.shape[1])
        if self.compiled is not None:
            columns = -(-columns // COLUMNS) * COLUMNS
        cache = self.decoder.new_cache(len(mask), columns)
        if begun:
            rest = self.prefixes.begin(begun, embeds, mask, cache, positions)
            embeds, mask, positions = rest.embeds, rest.mask, rest.positions
        logits = self.decoder.read(embeds, mask, cache, positions)
        return logits, Continuation(self.compiled or self.decoder, cache)


_ENGINES: WeakKeyDictionary[nn.Module, Engine] = WeakKeyDictionary()


def engine_of(llm: PreTrainedModel, *, compiled: bool = False) -> Engine:
    """The engine of ``llm``; a new one if there is none yet or weights have changed since."""
    engine = _ENGINES.get(llm)
    if engine is None or (engine.compiled is not None) != compiled or not engine.fits(llm):
        engine = _ENGINES[llm] = Engine(llm, compiled=compiled)
    return engine


def forget(llm: nn.Module) -> None:
    """Drop the engine of ``llm``, if there is one: it would keep modules that are replaced in memory."""
    _ENGINES.pop(llm, None)


class _Weights:
    """What shows that a model still computes the same: its tensors, and how it uses them."""

    def __init__(self, module: nn.Module) -> None:
        self._marks = [(weakref.ref(tensor), *_state(tensor)) for tensor in _tensors(module)]
        self._switches = _switches(module)

    def unchanged(self, module: nn.Module) -> bool:
        """Whether nothing was replaced, moved, written to or switched.

        Writing through ``.data`` cannot be seen.
        """
        if _switches(module) != self._switches:
            return False
        marks = iter(self._marks)
        for tensor in _tensors(module):
            mark = next(marks, None)
            if mark is None or mark[0]() is not tensor or mark[1:] != _state(tensor):
                return False
        return next(marks, None) is None


def _state(tensor: Tensor) -> tuple[int, int]:
    """Address and number of writes; tensors made in inference mode do not count the latter."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


def _switches(module: nn.Module) -> list[Any]:
    """The kind of attention, and of each adapted layer which adapters work and how strongly."""
    switches: list[Any] = [getattr(getattr(module, "config", None), "_attn_implementation", None)]
    for part in module.modules():
        if isinstance(part, BaseTunerLayer):
            strengths = dict(getattr(part, "scaling", {}))
            adapters = tuple(part.active_adapters), tuple(part.merged_adapters)
            switches.append((part.disable_adapters, *adapters, strengths))
    return switches


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for tensor in held.values():
                if tensor is not None:
                    yield tensor
