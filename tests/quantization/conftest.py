"""Packed layers to change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from audiolm_compress.quantization import Int8Linear, QuantizedLinear, Scheme
from audiolm_compress.quantization.gptq import quantize_rounding
from audiolm_compress.quantization.packed_linear import PackedLinear

Packed = Callable[..., PackedLinear]


@pytest.fixture
def packed() -> Packed:
    """Makes a prepared layer [64, 128] of a scheme, an ``Int8Linear`` for None; always the same one."""

    def make(scheme: Scheme | None, dtype: torch.dtype = torch.float32) -> PackedLinear:
        torch.manual_seed(0)
        linear = nn.Linear(128, 64).to(dtype).requires_grad_(False)
        layer: PackedLinear
        if scheme is None:
            layer = Int8Linear.from_linear(linear)
        else:
            rounded = quantize_rounding(linear.weight.float(), None, scheme, dtype=dtype)
            layer = QuantizedLinear.from_codes(rounded.codes, rounded.grid, scheme, linear.bias, dtype)
        layer.prepare()
        return layer

    return make


@pytest.fixture
def integers() -> Callable[[PackedLinear], dict[str, torch.Tensor]]:
    """Copies what is not floating of a layer's stored form."""
    return lambda layer: {
        name: tensor.clone() for name, tensor in layer.stored().items() if not tensor.is_floating_point()
    }
