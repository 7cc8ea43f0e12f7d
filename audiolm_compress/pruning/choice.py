"""Which units stay, once their importance is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def kept_number(total: int, share: float, multiple: int = 1) -> int:
    """The multiple of ``multiple`` that is nearest to ``share`` of ``total``, or all if that is as many.

    >>> kept_number(1536, 0.7, 32)
    1088
    """
    return min(total, int(total * share / multiple + 0.5) * multiple)


def best(scores: Tensor, number: int) -> list[int]:
    """Indices of the ``number`` highest scores, ascending; of equal ones the first."""
    order = scores.argsort(descending=True, stable=True)
    return sorted(order[:number].tolist())


def together(scores: Sequence[Tensor]) -> Tensor:
    """Scores of units that go in all layers or none: the sum of each layer's, relative to its mean."""
    return torch.stack([layer / layer.mean().clamp(min=1e-30) for layer in scores]).sum(0)
