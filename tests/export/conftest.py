"""Models to export whose linear layers are on grids, without calibration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.grids import fit_grid, round_to_grid
from audiolm_compress.salmonn.model import Salmonn

Rounded = Callable[..., Salmonn]


@pytest.fixture
def rounded(small_model: Callable[[str], Salmonn]) -> Rounded:
    """Makes a bfloat16 model with the linear layers of its LLM's blocks rounded, by ``schemes`` in turn."""

    def make(variant: str, *schemes: Scheme) -> Salmonn:
        model, dtype = small_model(variant), torch.bfloat16
        model.merge_lora()
        model.cast(dtype, ("llm",))
        linears = [
            (name, one)
            for name, one in model.named_modules()
            if name.startswith("llm.model.layers.") and isinstance(one, torch.nn.Linear)
        ]
        for index, (name, linear) in enumerate(linears):
            scheme = schemes[index % len(schemes)]
            weight = linear.weight.float()
            grid = fit_grid(weight, scheme, dtype=dtype)
            codes = round_to_grid(weight, grid, scheme)
            model.replace_module(name, QuantizedLinear.from_codes(codes, grid, scheme, None, dtype))
        return model

    return make
