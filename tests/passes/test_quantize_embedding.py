from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from audiolm_compress.passes.base import Context
from audiolm_compress.passes.quantize_embedding import QuantizeEmbedding
from audiolm_compress.quantization import QuantizedEmbedding, QuantizedLinear, TiedHead
from audiolm_compress.salmonn.model import Salmonn


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_small_error_and_one_storage(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor], context: Context, variant: str
) -> None:
    model = small_model(variant)
    tied = model.causal_lm.config.tie_word_embeddings
    ids = torch.arange(20)[None]
    words = model.causal_lm.get_input_embeddings()(ids)
    with torch.inference_mode():
        before = model.score(model.prepare(clips))
    bytes_before = model.weight_bytes()["llm"]
    report = QuantizeEmbedding().apply(model, context)
    embedding, head = model.causal_lm.get_input_embeddings(), model.causal_lm.get_output_embeddings()
    assert isinstance(embedding, QuantizedEmbedding)
    assert isinstance(head, TiedHead if tied else QuantizedLinear)
    with torch.inference_mode():
        after = model.score(model.prepare(clips))
    assert (before - after).norm() < 0.06 * before.norm()
    assert (embedding(ids) - words).norm() < 0.01 * words.norm()  # the embedding scale is still applied
    assert report.figures["saved_bytes"] == bytes_before - model.weight_bytes()["llm"] > 0
    assert len(report.modules) == (1 if tied else 2)


def test_a_second_time_changes_nothing(small_model: Callable[[str], Salmonn], context: Context) -> None:
    model = small_model("gemma")
    QuantizeEmbedding().apply(model, context)
    assert not QuantizeEmbedding().apply(model, context).changed
