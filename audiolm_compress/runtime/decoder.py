"""Reading with a causal LM: a prompt at once, then token after token.

The order of the operations and of their roundings is that of transformers' Gemma-2, Llama and Qwen2, so that
the logits differ by no more than what another grouping of a matrix product gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from audiolm_compress.runtime.architecture import Layer, Norm, layers_of
from audiolm_compress.runtime.attention import NOWHERE, RotaryTable, additive, attend, rotate, visible
from audiolm_compress.runtime.cache import Cache


class Decoder:
    """Reads with the modules of ``llm``, whose weights are shared.

    What is computed of the weights (the float32 weights of norms, the rotary table) is computed here, once:
    make a new decoder after they have changed, see `engine`.

    Args:
        llm: a causal LM for which `architecture.why_not` has no objection.
    """

    def __init__(self, llm: PreTrainedModel) -> None:
        model: Any = llm.model
        self.layers: list[Layer] = layers_of(llm)
        self.embed: Any = llm.get_input_embeddings()
        self.head: Any = llm.get_output_embeddings()
        gemma = type(llm).__name__.startswith("Gemma2")
        self.norm = Norm(model.norm, shifted=gemma)
        self.final_cap: float | None = getattr(llm.config, "final_logit_softcapping", None)
        weight: Tensor = model.norm.weight
        self.dtype, self.device = weight.dtype, weight.device
        self.rotary = RotaryTable(model.rotary_emb, weight.dtype, weight.device)
        self.windows = sorted({layer.window for layer in self.layers if layer.window is not None})

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for ``batch`` texts of up to ``capacity`` tokens; longer ones make it grow."""
        return Cache(len(self.layers), batch, capacity, self.device)

    @torch.inference_mode()
    def read(self, embeds: Tensor, mask: Tensor, cache: Cache, positions: Tensor | None = None) -> Tensor:
        """Read a prompt, or go on with one.

        Args:
            embeds: [batch, length, hidden], scaled as the layers want them.
            mask: int64 [batch, length], 1 where there is a token; padding on the left.
            cache: what is there already is the text before.
            positions: int64 [batch, length], where they have gaps.

        Returns:
            Logits of the last position, [batch, vocabulary], in the LLM's dtype.
        """
        length = embeds.shape[1]
        cache.reserve(length)
        columns = torch.arange(cache.length, cache.length + length, device=self.device)
        if positions is None and cache.positions is None and bool(mask.all()):
            positions = columns[None]
        else:
            if positions is None:
                begin = cache.next_positions
                positions = mask.cumsum(-1) - 1 + (cache.length if begin is None else begin[:, None])
            cache.place_prompt(torch.where(mask.bool(), positions, NOWHERE))
            positions = positions.clamp(min=0)
        self.rotary.reach(cache.capacity + cache.ahead)
        cosines = self.rotary.cosines[positions][:, :, None]
        sines = self.rotary.sines[positions][:, :, None]
        masks = self._masks(positions, length, cache)
        x, last = embeds, len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            # Of the last layer only the last position is asked for; its keys and values are needed of all.
            asked = slice(-1, None) if index == last else slice(None)
            h = layer.before_attention(x)
            keys, values = self._heads(layer.key(h), layer), self._heads(layer.value(h), layer)
            keys, values = cache.write(index, rotate(keys, cosines, sines), values)
            x, h = x[:, asked], h[:, asked]
            queries = rotate(self._heads(layer.query(h), layer), cosines[:, asked], sines[:, asked])
            seen = masks[layer.window]
            seen = seen if seen is None else seen[:, :, asked]
            causal = seen is None and index != last
            x = self._rest(layer, x, attend(layer, queries, keys, values, seen, causal=causal))
        cache.advance(length)
        return self.logits(x[:, -1:])

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Read one more token of every text.

        Args:
            tokens: int64 [batch].
            cache: of the text before; gets longer by one.

        Returns:
            Logits of the next token, [batch, vocabulary], in the LLM's dtype.
        """
        cache.reserve(1)
        self.rotary.reach(cache.capacity + cache.ahead)
        at = cache.length
        end = at + 1
        masks: dict[int | None, Tensor | None] = dict.fromkeys((None, *self.windows))
        if cache.next_positions is None:
            cosines, sines = self.rotary.cosines[at], self.rotary.sines[at]
            first = {window: max(0, end - window) for window in self.windows} | {None: 0}
        else:
            positions = cache.next_positions[:, None]
            cosines = self.rotary.cosines[positions][:, :, None]
            sines = self.rotary.sines[positions][:, :, None]
            cache.place(positions)
            masks = self._masks(positions, 1, cache)
            first = dict.fromkeys((*self.windows, None), 0)

        def store(layer: Layer, held: Tensor, fresh: Tensor) -> Tensor:
            held.select(3, at).copy_(fresh)
            begin = first[layer.window]
            return held.narrow(3, begin, end - begin)

        logits = self.token(tokens, cosines, sines, cache.held(), store, masks)
        cache.advance(1)
        return logits

    def token(
        self,
        tokens: Tensor,
        cosines: Tensor,
        sines: Tensor,
        held: Sequence[Tensor],
        store: Callable[[Layer, Tensor, Tensor], Tensor],
        masks: Mapping[int | None, Tensor | None],
    ) -> Tensor:
        """One token of every text through all layers.

        Args:
            tokens: int64 [batch].
            cosines: of the tokens' positions, broadcastable to [batch, 1, heads, head_dim].
            sines: as ``cosines``.
            held: keys and values so far, one tensor a layer, see ``Cache.layers``.
            store: puts new keys and values [2, batch, key heads, head_dim] of a layer into what is held, and
                gives what its attention reads: [2, batch, key heads, columns, head_dim].
            masks: of these columns, by window.

        Returns:
            Logits [batch, vocabulary].
        """
        batch = len(tokens)
        x = self.embed(tokens[:, None])
        for layer, memory in zip(self.layers, held, strict=True):
            h = layer.before_attention(x)
            width, groups = layer.head_dim, memory.shape[2]
            # One tensor for all heads: queries and keys are turned together, keys and values stored together.
            heads = torch.cat((layer.query(h), layer.key(h), layer.value(h)), -1).view(batch, 1, -1, width)
            queries = heads.shape[2] - 2 * groups
            turning = heads.narrow(2, 0, queries + groups)
            turned = turning.roll(width // 2, -1).mul_(sines)
            turning.mul_(cosines).add_(turned)
            fresh = heads.narrow(2, queries, 2 * groups).view(batch, 2, groups, width)
            used = store(layer, memory, fresh.transpose(0, 1))
            found = attend(layer, heads.narrow(2, 0, queries), used[0], used[1], masks[layer.window])
            x = self._rest(layer, x, found)
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Of the last layer's states [batch, 1, hidden]: [batch, vocabulary], capped where the model caps."""
        logits: Tensor = self.head(self.norm(x))[:, -1]
        if self.final_cap is not None:
            # Not skipped even for the largest: rounding makes equals of neighbours, and the first one wins.
            logits = logits.div(self.final_cap).tanh_().mul_(self.final_cap)
        return logits

    def _rest(self, layer: Layer, x: Tensor, found: Tensor) -> Tensor:
        """A layer's output projection and feed-forward, with their residuals."""
        y = layer.output(found)
        x = x + (y if layer.after_attention is None else layer.after_attention(y))
        h = layer.before_mlp(x)
        y = layer.down(layer.act(layer.gate(h)) * layer.up(h))
        return x + (y if layer.after_mlp is None else layer.after_mlp(y))

    @staticmethod
    def _heads(x: Tensor, layer: Layer) -> Tensor:
        """[batch, length, heads * head_dim] -> [batch, length, heads, head_dim]."""
        return x.unflatten(-1, (-1, layer.head_dim))

    def _masks(self, positions: Tensor, length: int, cache: Cache) -> dict[int | None, Tensor | None]:
        """One mask a window, for ``length`` new queries at ``positions``; None where causality is all.

        For fused layers bool, else additive, [batch or 1, 1, queries, columns].
        """
        end = cache.length + length
        fused = self.layers[0].fused
        columns = torch.arange(cache.length, end, device=self.device)
        plain = not cache.padded
        keys = cache.positions_of(end)
        masks: dict[int | None, Tensor | None] = {}
        for window in (None, *self.windows):
            within = window is None or end + cache.ahead <= window
            if plain and within and (length == 1 or (fused and cache.length == 0)):
                masks[window] = None
            else:
                seen = visible(positions, columns, keys, None if within else window)
                masks[window] = (seen if fused else additive(seen, self.dtype))[:, None]
        return masks
