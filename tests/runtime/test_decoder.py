"""The decoder's logits are those of transformers' forward, whatever the prompt looks like."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.runtime import fallback
from audiolm_compress.runtime.architecture import why_not
from audiolm_compress.runtime.engine import Engine, engine_of
from audiolm_compress.salmonn.lora import add_lora
from audiolm_compress.salmonn.model import Salmonn

SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS = {
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=16, query_pre_attn_scalar=24, sliding_window=6),
    "llama with scaled positions": lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen2 with windows": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
}


def random_llm(config: Any, attention: str | None = None) -> PreTrainedModel:
    torch.manual_seed(1)
    eager = getattr(config, "attn_logit_softcapping", None) is not None
    llm = AutoModelForCausalLM.from_config(
        config, attn_implementation=attention or ("eager" if eager else "sdpa")
    ).eval()
    for name, parameter in llm.named_parameters():  # norms and biases away from their neutral values
        if parameter.ndim == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter), alpha=1.0)
        assert parameter.isfinite().all(), name
    return llm.requires_grad_(False)


def logits(read: Callable[..., Any], embeds: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """After the prompt and after each of ``tokens`` [steps, batch]: [steps + 1, batch, vocabulary]."""
    first, reading = read(embeds, mask)
    return torch.stack([first, *(reading.step(step) for step in tokens)]).clone()


def batch(llm: PreTrainedModel, padding: tuple[int, ...], length: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 90, (len(padding), length), generator=generator)
    mask = torch.ones_like(ids)
    for row, count in enumerate(padding):
        mask[row, :count] = 0
    return llm.get_input_embeddings()(ids), mask, torch.randint(0, 90, (9, len(padding)), generator=generator)


@pytest.mark.parametrize("padding", [(0,), (0, 0), (0, 4, 1)], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name: str, padding: tuple[int, ...]) -> None:
    """Longer than the window, with and without padding; the cache grows on the way."""
    llm = random_llm(CONFIGS[name]())
    assert why_not(llm) == ""
    embeds, mask, tokens = batch(llm, padding)
    engine = engine_of(llm)
    ours = logits(lambda e, m: engine.prefill(e, m, room=2), embeds, mask, tokens)
    theirs = logits(lambda e, m: fallback.prefill(llm, e, m), embeds, mask, tokens)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_eager_attention_without_caps() -> None:
    llm = random_llm(CONFIGS["qwen2"](), "eager")
    embeds, mask, tokens = batch(llm, (0, 3))
    ours = logits(engine_of(llm).prefill, embeds, mask, tokens)
    theirs = logits(lambda e, m: fallback.prefill(llm, e, m), embeds, mask, tokens)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_rounds_where_transformers_does(name: str) -> None:
    """A few units of the last place apart at most, of logits around one; most are equal bit by bit."""
    llm = random_llm(CONFIGS[name]()).to(torch.bfloat16)
    embeds, mask, tokens = batch(llm, (0, 4))
    ours = logits(engine_of(llm).prefill, embeds, mask, tokens)
    theirs = logits(lambda e, m: fallback.prefill(llm, e, m), embeds, mask, tokens)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)
    assert (ours == theirs).float().mean() > 0.5


@pytest.mark.parametrize("name", ["gemma2", "qwen2 with windows", "llama with scaled positions"])
def test_kept_beginnings_change_nothing(name: str) -> None:
    """Rows with beginnings of their own length, or none, and padding: as if all had been read."""
    llm = random_llm(CONFIGS[name]())
    embeds, mask, tokens = batch(llm, (0, 4, 0))
    begins = ((5, 17, 3), (8,), ())
    embedding = llm.get_input_embeddings()
    for row, ids in enumerate(begins):
        start = int(mask.shape[1] - mask[row].sum())
        if ids:
            embeds[row, start : start + len(ids)] = embedding(torch.tensor(ids))
    engine = Engine(llm)
    whole = logits(engine.prefill, embeds, mask, tokens)
    for _ in range(2):  # read, then reused
        kept = logits(lambda e, m: engine.prefill(e, m, begins), embeds, mask, tokens)
        torch.testing.assert_close(kept, whole, atol=2e-5, rtol=1e-4)
    widths = (3 + 1) * 2 * 2 * llm.model.layers[0].self_attn.head_dim * 4
    assert engine.prefixes.nbytes == 3 * widths
    same = logits(lambda e, m: engine.prefill(e, m, begins[:1]), embeds[:1], mask[:1], tokens[:, :1])
    torch.testing.assert_close(same, whole[:, :1], atol=2e-5, rtol=1e-4)
    capacities = [engine.prefill(embeds, mask, ids, room=2)[1].cache.capacity for ids in (begins, None)]
    assert capacities == [3 + 11 + 2, 11 + 2]  # the row without a beginning has the longest rest
    assert engine.prefill(embeds[:1], mask[:1], begins[:1], room=2)[1].cache.capacity == 11 + 2


def test_beams_share_a_prompt() -> None:
    """Rows repeated and reordered go on like texts that were read from their beginning."""
    llm = random_llm(CONFIGS["gemma2"]())
    embeds, mask, _ = batch(llm, (0, 4))
    _, reading = engine_of(llm).prefill(embeds, mask, room=1)
    reading.expand(2)
    said = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    reading.step(said[0])
    reading.reorder(torch.tensor([1, 1, 3, 2]))  # now said: 2, 2, 4, 3
    found = reading.step(said[1])
    rows = torch.tensor([0, 0, 1, 1])
    again = torch.stack((torch.tensor([2, 2, 4, 3]), said[1]))
    expected = logits(engine_of(llm).prefill, embeds[rows], mask[rows], again)[-1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_engine_follows_the_weights() -> None:
    """Kept while nothing changes; made anew after an edit, so that nothing stale is read."""
    llm = random_llm(CONFIGS["qwen2"]())
    engine = engine_of(llm)
    assert engine_of(llm) is engine
    embeds, mask, tokens = batch(llm, (0,))
    before = logits(engine.prefill, embeds, mask, tokens)
    with torch.no_grad():
        llm.model.norm.weight.mul_(2)
    assert engine_of(llm) is not engine
    after = logits(engine_of(llm).prefill, embeds, mask, tokens)
    torch.testing.assert_close(after, logits(lambda e, m: fallback.prefill(llm, e, m), embeds, mask, tokens))
    assert not torch.allclose(before, after)
    engine = engine_of(llm)
    llm.model.layers[1].mlp.down_proj = torch.nn.Linear(48, 32, bias=False)
    assert engine_of(llm) is not engine
    engine = engine_of(llm)
    add_lora(llm, r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj"])
    assert engine_of(llm) is not engine


def test_replaced_modules_leave_memory(small_model: Callable[[str], Salmonn], clips: list[Tensor]) -> None:
    """Also those that an engine was made of, without waiting for the next one."""
    model = small_model("llama")
    model.merge_lora()
    model.generate(clips[1:], num_beams=1, max_new_tokens=1)
    names = [f"llm.model.layers.0.mlp.{name}_proj" for name in ("up", "down")]
    linears = [weakref.ref(model.get_submodule(name)) for name in names]
    for name in names:
        model.replace_module(name, Int8Linear.from_linear(model.get_submodule(name)))
    gc.collect()
    assert all(linear() is None for linear in linears)


def test_beginnings_follow_the_adapters() -> None:
    """Kept keys and values are those of the adapters that work, as strongly as they work now."""
    llm = random_llm(CONFIGS["qwen2"]())
    adapted = add_lora(llm, r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["v_proj"])
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    embeds, mask, tokens = batch(llm, (0,))
    begins = ((5, 17, 3, 8),)
    embeds[0, :4] = llm.get_input_embeddings()(torch.tensor(begins[0]))

    def check() -> Tensor:
        kept = logits(lambda e, m: engine_of(llm).prefill(e, m, begins), embeds, mask, tokens)
        whole = logits(lambda e, m: fallback.prefill(llm, e, m), embeds, mask, tokens)
        torch.testing.assert_close(kept, whole, atol=2e-5, rtol=1e-4)
        return kept

    working = check()
    with adapted.disable_adapter():
        assert not torch.allclose(check(), working, atol=1e-3)
    torch.testing.assert_close(check(), working)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(3.0)
    assert not torch.allclose(check(), working, atol=1e-3)
    engine = engine_of(llm)
    llm.config._attn_implementation = "eager"
    assert engine_of(llm) is not engine
    check()


def test_unknown_models_are_named() -> None:
    mistral = random_llm(MistralConfig(**SIZES))
    assert "MistralForCausalLM is none of Gemma2ForCausalLM" in why_not(mistral)
    dynamic = LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert "'dynamic'" in why_not(random_llm(dynamic))


def test_an_unknown_model_answers_and_says_so_once(
    small_model: Callable[[str], Salmonn], clips: list[Tensor]
) -> None:
    model = small_model("llama")
    greedy = model.generate(clips, num_beams=1)
    model.causal_lm.config.use_bidirectional_attention = True  # not looked at by transformers' Llama
    with pytest.warns(UserWarning, match="transformers' own forward and generate: bidirectional attention"):
        assert model.generate(clips, num_beams=1) == greedy
    assert model.generate(clips, num_beams=1) == greedy
    assert "bidirectional attention" in model.runtime_note
