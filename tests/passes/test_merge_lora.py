"""Merging LoRA: equal answers, fewer modules, honest when there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable

import torch

from audiolm_compress.passes.base import Context
from audiolm_compress.passes.merge_lora import MergeLora
from audiolm_compress.salmonn.model import Salmonn


def test_weights_are_the_papers_sum(small_model: Callable[..., Salmonn], context: Context) -> None:
    model = small_model()
    layer = model.causal_lm.model.layers[1].self_attn.v_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer.weight + 32 / 8 * b @ a
    report = MergeLora().apply(model, context)
    assert report.changed
    assert report.figures["merged"] == 6
    torch.testing.assert_close(model.causal_lm.model.layers[1].self_attn.v_proj.weight, expected)
    assert not any("lora" in name for name in model.state_dict())


def test_nothing_to_merge_is_said(small_model: Callable[..., Salmonn], context: Context) -> None:
    model = small_model()
    MergeLora().apply(model, context)
    report = MergeLora().apply(model, context)
    assert not report.changed
    assert "no LoRA" in report.summary
