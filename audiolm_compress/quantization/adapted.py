"""A linear layer with a low-rank adapter beside it that cannot be folded in, or is not to be.

    y = W x + b + B A x                       A [rank, in], B [out, rank]

That is LoRA (arXiv:2106.09685) with its factor, alpha / rank or alpha / sqrt(rank) (rsLoRA,
arXiv:2312.03732), inside B, which saves an operation a layer. DoRA (arXiv:2402.09353) gives every output a
length m of its own,

    y = c (W + B A) x + b,   c = m / |W + B A|        (eq. 5, lengths of rows [out])

and once it is trained c is a constant: it scales the rows of B, and those of W, which a packed layer keeps in
its scales. So both are kept in the form above, and what is kept costs the same two small products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from audiolm_compress.quantization.packed_linear import PackedLinear


def adapted_weight(weight: Tensor, a: Tensor, b: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """The weights that a layer and its adapter have together.

    Args:
        weight: [out, in].
        a: [rank, in].
        b: [out, rank], LoRA's factor inside.
        magnitude: DoRA's lengths of the rows, [out]; None for LoRA.

    Returns:
        float32 [out, in].
    """
    whole = weight.float() + b.float() @ a.float()
    return whole if magnitude is None else whole * row_factors(weight, a, b, magnitude)[:, None]


def row_factors(weight: Tensor, a: Tensor, b: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA's c, float32 [out]: what stretches each row of W + B A to its length ``magnitude``."""
    return magnitude.float() / torch.linalg.vector_norm(adapted_weight(weight, a, b), dim=1)


class AdaptedLinear(nn.Module):
    """``base_layer``, a plain, packed or low-rank linear layer, with ``lora_A`` and ``lora_B`` beside it.

    The children are named as peft names them, so that passes which look for plain linear layers find a plain
    ``base_layer`` and leave the factors alone.
    """

    def __init__(self, base_layer: nn.Module, rank: int, dtype: torch.dtype | None = None) -> None:
        """Put empty factors of ``rank`` beside ``base_layer``, on its device."""
        super().__init__()
        inputs, outputs = base_layer.in_features, base_layer.out_features
        assert isinstance(inputs, int) and isinstance(outputs, int), "a linear layer"
        self.in_features, self.out_features, self.rank = inputs, outputs, rank
        self.base_layer = base_layer
        tensors = [*base_layer.parameters(), *base_layer.buffers()]
        self.lora_A = skip_init(nn.Linear, inputs, rank, bias=False, device=tensors[0].device, dtype=dtype)
        self.lora_B = skip_init(nn.Linear, rank, outputs, bias=False, device=tensors[0].device, dtype=dtype)

    @classmethod
    @torch.no_grad()
    def from_factors(
        cls, base_layer: nn.Linear | PackedLinear[Any], a: Tensor, b: Tensor, magnitude: Tensor | None = None
    ) -> AdaptedLinear:
        """Keep trained factors (see ``adapted_weight``) beside ``base_layer``, in its dtype.

        With a ``magnitude`` the rows of ``base_layer`` are scaled in place; integers stay as they are.
        """
        layer = cls(base_layer, len(a), floating_type(base_layer))
        if magnitude is not None:
            factors = row_factors(dense_weight(base_layer), a, b, magnitude)
            b = b.float() * factors[:, None]
            if isinstance(base_layer, PackedLinear):
                base_layer.scale_outputs(factors)
            else:
                base_layer.weight.copy_(base_layer.weight.float() * factors[:, None])
        layer.lora_A.weight.copy_(a)
        layer.lora_B.weight.copy_(b)
        return layer.requires_grad_(False)

    @property
    def foldable(self) -> bool:
        """Whether the weights of ``base_layer`` are a matrix, so that the adapter can be added to it."""
        return isinstance(self.base_layer, nn.Linear)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """``base_layer`` with the adapter added to its weights; rounded once, to their dtype.

        Raises:
            TypeError: it is not ``foldable``.
        """
        if not isinstance(self.base_layer, nn.Linear):
            raise TypeError(
                f"an adapter cannot be added to the weights of a {type(self.base_layer).__name__}"
            )
        weight = self.base_layer.weight
        weight.copy_(adapted_weight(weight, self.lora_A.weight, self.lora_B.weight))
        return self.base_layer

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs to build the layer again, without its weights."""
        base = self.base_layer
        if isinstance(base, nn.Linear):
            described = {
                "kind": "dense",
                "in_features": base.in_features,
                "out_features": base.out_features,
                "bias": base.bias is not None,
            }
        else:
            described = base.spec()  # type: ignore[operator]  # nn.Module types every attribute as a module
        return {"kind": "adapted", "rank": self.rank, "base": described}

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out] in the dtype that ``base_layer`` gives."""
        y = self.base_layer(x)
        return y + self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype))).to(y.dtype)


def dense_weight(layer: nn.Linear | PackedLinear[Any]) -> Tensor:
    """The weights of a plain or packed layer as a matrix [out, in]."""
    return layer.dense() if isinstance(layer, PackedLinear) else layer.weight.detach()


def floating_type(layer: nn.Linear | PackedLinear[Any]) -> torch.dtype:
    """The dtype of the weights of a plain layer, or of the scales of a packed one."""
    return layer.dtype if isinstance(layer, PackedLinear) else layer.weight.dtype
