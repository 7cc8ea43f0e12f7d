"""Integers on a grid as blocks of GGUF, without rounding the weights a second time.

A symmetric grid of this package is W = s * n with an integer n and a scale s for a group of inputs. So is a
block of 32 weights of q4_0 (n = -8 .. 7) and of q8_0 (n = -128 .. 127), with s in float16:

    q4_0    s, then 16 bytes: n + 8 of weight j in the low and of weight j + 16 in the high half of byte j
    q8_0    s, then 32 bytes: n

A group of a multiple of 32 inputs is some blocks of the same scale, and 2 and 3 bits are part of 4. The
integers go over as they are; scales only lose what float16 does not hold, which of bfloat16's is nothing
but what is below 6e-5. Layout: block_q4_0 and block_q8_0 of ggml-common.h.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiolm_compress.quantization.embedding import QuantizedEmbedding, TiedHead
from audiolm_compress.quantization.kernels import stored_parts
from audiolm_compress.quantization.linear import QuantizedLinear

BLOCK = 32


class Blocks(NamedTuple):
    """``integers`` int16 [rows, width] and ``scales`` float32 [rows, width / 32], exact in float16."""

    integers: Tensor
    scales: Tensor

    def values(self) -> Tensor:
        """The weights, float32 [rows, width]."""
        return self.integers * self.scales.repeat_interleave(BLOCK, 1)

    def packed(self, kind: str) -> Tensor:
        """uint8 [rows, bytes] of a q4_0 or q8_0."""
        rows = len(self.integers)
        blocks = self.integers.reshape(rows, -1, BLOCK)
        if kind == "q4_0":
            low, high = (blocks + 8).to(torch.uint8).split(BLOCK // 2, -1)
            numbers = low | high << 4
        else:
            numbers = blocks.to(torch.int8).view(torch.uint8)
        scales = self.scales.half()[..., None].view(torch.uint8)
        return torch.cat([scales, numbers], -1).reshape(rows, -1)


def blocks_type(module: nn.Module | None, kind: str) -> str | None:
    """In which type the integers of a module can stay in a file of type ``kind``; None if in none."""
    if isinstance(module, QuantizedEmbedding | TiedHead):
        embedding = module.embedding if isinstance(module, TiedHead) else module
        return "q8_0" if embedding.embedding_dim % BLOCK == 0 else None
    if not isinstance(module, QuantizedLinear) or not module.scheme.symmetric:
        return None
    if module.in_features % BLOCK or module.scheme.width(module.in_features) % BLOCK:
        return None
    return "q8_0" if module.scheme.bits == 8 else kind


@torch.no_grad()
def blocks_of(module: nn.Module) -> Blocks:
    """The integers and scales of a module that has a ``blocks_type``."""
    if isinstance(module, QuantizedLinear):
        codes, scales, _ = stored_parts(module.shape, module.stored())  # zeros are the middle
        width = module.scheme.width(module.in_features)
        integers = codes.T.to(torch.int16) - module.scheme.middle
        spread = scales.T.repeat_interleave(width // BLOCK, 1)[:, : module.in_features // BLOCK]
    else:
        embedding = module.embedding if isinstance(module, TiedHead) else module
        assert isinstance(embedding, QuantizedEmbedding)
        integers = embedding.codes.to(torch.int16)
        spread = embedding.scales[:, None].expand(-1, embedding.embedding_dim // BLOCK)
    return Blocks(integers.cpu(), spread.half().float().cpu())
