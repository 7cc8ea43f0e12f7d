"""Rotary tables, masks, and attention with grouped queries without repeated keys."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm_compress.runtime.architecture import Layer

NOWHERE = -1  # position of a column that holds padding


class RotaryTable:
    """Cosines and signed sines of positions 0, 1, ..., each [length, head_dim], by the model's own module.

    Rotating is ``x * cosines + roll(x, half) * sines``: the sign of the half that transformers negates is in
    the table, which changes no rounding.
    """

    _STEP = 256

    def __init__(self, rotary: Any, dtype: torch.dtype, device: torch.device) -> None:
        self._rotary = rotary
        self._like = torch.empty(0, dtype=dtype, device=device)
        self.cosines = self.sines = self._like

    def reach(self, length: int) -> None:
        """Hold at least ``length`` positions."""
        if length <= len(self.cosines):
            return
        positions = torch.arange(-(-length // self._STEP) * self._STEP, device=self._like.device)
        cosines, sines = self._rotary(self._like, positions[None])
        half = sines.shape[-1] // 2
        self.cosines, self.sines = cosines[0], torch.cat((-sines[0, :, :half], sines[0, :, half:]), -1)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """``x`` [batch, length, heads, head_dim] turned by tables [batch or 1, length, 1, head_dim]."""
    return (x * cosines).add_(x.roll(x.shape[-1] // 2, -1).mul_(sines))


def visible(queries: Tensor, query_columns: Tensor, keys: Tensor, window: int | None = None) -> Tensor:
    """Which columns a query sees: bool [batch or 1, queries, columns].

    A query sees columns up to its own that hold a token, and with a window only those whose position is less
    than ``window`` before its own. Its own column it always sees: a row that sees nothing would give NaN, and
    what stands under the padding is read by nobody.

    Args:
        queries: positions [batch or 1, queries].
        query_columns: [queries].
        keys: positions [batch or 1, columns], `NOWHERE` under padding.
        window: positions that a query sees, itself included.
    """
    columns = torch.arange(keys.shape[1], device=keys.device)
    seen = (columns <= query_columns[:, None]) & (keys != NOWHERE)[:, None, :]
    if window is not None:
        seen &= keys[:, None, :] > queries[:, :, None] - window
    return seen | (columns == query_columns[:, None])


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as numbers to add to scores: 0 where seen, the least number of ``dtype`` elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
        ~seen, torch.finfo(dtype).min
    )


def attend(
    layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, causal: bool = False
) -> Tensor:
    """Attention of a layer.

    Args:
        layer: says how.
        queries: [batch, length, heads, head_dim].
        keys: [batch, key heads, columns, head_dim].
        values: as ``keys``.
        mask: [batch or 1, 1, length, columns]: additive, or bool for a fused layer; None if all is seen.
        causal: the columns are those of the queries, and none looks ahead (fused layers without mask only).

    Returns:
        [batch, length, heads * head_dim].
    """
    batch, length, heads, width = queries.shape
    groups = keys.shape[1]
    if layer.fused:
        if length == 1:  # the queries that share a key stand where a longer text's positions would
            packed = queries.reshape(batch, groups, heads // groups, width)
            found = F.scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=layer.scale)
            return found.reshape(batch, 1, heads * width)
        found = F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys,
            values,
            attn_mask=mask,
            is_causal=causal,
            scale=layer.scale,
            enable_gqa=heads != groups,
        )
        return found.transpose(1, 2).reshape(batch, length, heads * width)
    shared = heads // groups
    if length == 1:
        found = _single(layer, queries.reshape(batch * groups, shared, width), keys, values, mask)
        return found.view(batch, 1, heads * width)
    rows = queries.transpose(1, 2).reshape(batch * groups, shared * length, width)
    scores = _cap(layer, torch.bmm(rows, keys.flatten(0, 1).transpose(1, 2)))
    if mask is not None:
        scores.view(batch, groups, shared, length, -1).add_(mask[:, None])
    found = torch.bmm(torch.softmax(scores, -1), values.flatten(0, 1))
    return found.view(batch, heads, length, width).transpose(1, 2).reshape(batch, length, heads * width)


def _single(layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """One position: [batch * key heads, queries that share a key, head_dim] in and out.

    On a CPU the products are computed in float32: the 16-bit ones of PyTorch 2.13 compile a kernel for every
    new number of columns, which takes longer than a whole layer, and are slower afterwards. Both sum in
    float32 and round once.
    """
    dtype = queries.dtype
    wide = queries.device.type == "cpu" and dtype != torch.float32
    by_text = keys.shape[:2]
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    if wide:
        scores = torch.bmm(queries.float(), keys.float().transpose(1, 2)).to(dtype)
    else:
        scores = torch.bmm(queries, keys.transpose(1, 2))
    scores = _cap(layer, scores)
    if mask is not None:
        scores.unflatten(0, by_text).add_(mask)
    weights = torch.softmax(scores, -1)
    if wide:
        return torch.bmm(weights.float(), values.float()).to(dtype)
    return torch.bmm(weights, values)


def _cap(layer: Layer, scores: Tensor) -> Tensor:
    """Scale, and where the model does so cap, in place."""
    if layer.softcap is None:
        return scores.mul_(layer.scale)
    if layer.folded:
        return scores.div_(layer.softcap / layer.scale).tanh_().mul_(layer.softcap)
    return scores.mul_(layer.scale).div_(layer.softcap).tanh_().mul_(layer.softcap)
