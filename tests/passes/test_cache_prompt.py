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
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.runtime.engine import engine_of
from audiolm_compress.runtime.prefixes import KEPT
from audiolm_compress.runtime.settings import RuntimeSettings
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
    unknown = "cannot run this LLM: attention implementation 'flex_attention'"
    with pytest.raises(PassError, match=unknown):
        CachePrompt().apply(model, context)
    with pytest.raises(PassError, match=unknown):
        CachePrompt().predict(Sketch(model))
    model = small_model("llama")
    model.prompts = Prompts("{}", {"asr": "<SpeechHere> what is said?"})
    model.tokenizer.bos_token = None
    with pytest.raises(PassError, match="nothing to keep"):
        CachePrompt().apply(model, replace(context, calibration=()))
    with pytest.raises(PassError, match="nothing to keep"):
        CachePrompt().predict(Sketch(model))
    assert not model.prompt_cache


def test_beginnings_of_equal_length_count_each(
    small_model: Callable[[str], Salmonn], context: Context
) -> None:
    model = small_model("llama")
    texts = {"asr": "a <SpeechHere>", "again": "a <SpeechHere> b", "other": "b <SpeechHere>"}
    model.prompts = Prompts("{}", texts)
    report = CachePrompt().apply(model, context)
    tokens, nbytes = zip(
        *((row["prefix_tokens"], row["cached_bytes"]) for row in report.modules), strict=True
    )
    assert len(set(tokens)) == 1 and report.figures["cached_bytes"] == 2 * nbytes[0]
    assert len(report.notes) == 1


def test_what_saves_nothing_is_said(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor], context: Context
) -> None:
    model = small_model("llama")
    model.prompts = Prompts("{}", {"asr": "a <SpeechHere>", "qa": "{} <SpeechHere>"})
    assert "the question of qa stands before the audio" in CachePrompt().apply(model, context).notes[1]
    audio = model.encode_audio(clips[1:])
    for number in range(KEPT + 3):
        around = [model.prompts.around("qa", None, "a" * number)]
        model.prefill(model.wrap(audio, around, padding_side="left"))
    assert len(engine_of(model.causal_lm).prefixes) == KEPT
    model.runtime = RuntimeSettings(engine="transformers")
    assert "the prompt cache is not used" in model.runtime_note
