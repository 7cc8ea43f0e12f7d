"""Merging LoRA: equal answers, fewer modules, honest when there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audiolm_compress.passes.base import Context
from audiolm_compress.passes.low_rank import LowRank
from audiolm_compress.passes.merge_lora import MergeLora
from audiolm_compress.passes.quantize_embedding import QuantizeEmbedding
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
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


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
def test_modules_replaced_before_are_found_again(
    small_model: Callable[..., Salmonn], context: Context, clips: list[torch.Tensor], tmp_path: Path
) -> None:
    """Their names lose the wrapping's part, and so does the embedding's that a tied head refers to."""
    model = small_model("gemma")
    QuantizeEmbedding().apply(model, context)
    LowRank(parts=("llm",), energy=0.6, skip=("*.q_proj", "*.v_proj"), loss_clips=2).apply(model, context)
    MergeLora().apply(model, context)
    assert len(model.replaced) > 2
    loaded = load_model(store.save(model, tmp_path / "model"))
    with torch.inference_mode():
        assert torch.equal(loaded.score(loaded.prepare(clips)), model.score(model.prepare(clips)))
