"""Positions that are computed, not stored: Whisper's encoder has sinusoids that were never trained.

    P[t, i] = sin(t w_i),  P[t, i + d/2] = cos(t w_i),   w_i = 10000^(-i / (d/2 - 1)),  i = 0 .. d/2 - 1

(Vaswani et al., arXiv:1706.03762, section 3.5, in the spacing and order of OpenAI's Whisper.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Embeddings float32 [positions, width] of int64 ``positions`` [positions]; ``width`` is even."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10_000.0) / (half - 1)))
    angles = positions[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class Sinusoids(nn.Module):
    """Stands in the place of an embedding of ``num_embeddings`` positions; it holds no weights."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs to build the module again."""
        return {
            "kind": "sinusoids",
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
        }

    def forward(self, positions: Tensor) -> Tensor:
        """Int64 ``positions`` [n] -> float32 [n, width]."""
        return sinusoids(positions, self.embedding_dim)
