"""The pass counts what stands before the audio, and answers stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audiolm_compress.errors import PassError
from audiolm_compress.passes import CachePrompt
from audiolm_compress.passes.base import Context
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.prompts import Prompts


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_answers_stay_the_same_also_from_the_saved_folder(
    small_model: Callable[[str], Salmonn],
    clips: list[torch.Tensor],
    context: Context,
    tmp_path: Path,
    variant: str,
) -> None:
    model = small_model(variant)
    before = model.generate(clips, "asr"), model.generate(clips, "audiocaption", num_beams=1)
    report = CachePrompt().apply(model, context)
    ids = model._bos() + model._ids(model.prompts.around("asr")[0])
    config = model.causal_lm.config
    kept = 2 * 3 * config.num_key_value_heads * config.head_dim * len(ids) * 4  # 3 layers, float32
    assert report.figures["prefix_tokens"] == len(ids) and report.figures["cached_bytes"] == kept
    assert {row["task"] for row in report.modules} == {*model.prompts.test, *model.prompts.train}
    share = report.modules[0]["share_of_prefill"]
    assert share == pytest.approx(len(ids) / report.modules[0]["prompt_tokens"], abs=1e-4)
    loaded = store.load(store.save(model, tmp_path / "model"))
    assert loaded.prompt_cache
    for side in (model, loaded):
        assert (side.generate(clips, "asr"), side.generate(clips, "audiocaption", num_beams=1)) == before
    assert not CachePrompt().apply(model, context).changed


def test_refused_where_it_could_do_nothing(small_model: Callable[[str], Salmonn], context: Context) -> None:
    model = small_model("llama")
    model.causal_lm.config._attn_implementation = "flex_attention"
    with pytest.raises(PassError, match="cannot run this LLM: attention implementation 'flex_attention'"):
        CachePrompt().apply(model, context)
    model = small_model("llama")
    model.prompts = Prompts("{}", {"asr": "<SpeechHere> what is said?"})
    model.tokenizer.bos_token = None
    with pytest.raises(PassError, match="nothing to keep"):
        CachePrompt().apply(model, replace(context, calibration=()))
    assert not model.prompt_cache
