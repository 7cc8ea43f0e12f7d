"""Compiled steps give the same logits as steps as they are; where nothing can be compiled, those run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedModel

from audiolm_compress.runtime import fallback
from audiolm_compress.runtime.answers import Search
from audiolm_compress.runtime.beam_search import beam_search
from audiolm_compress.runtime.engine import Engine, engine_of
from audiolm_compress.runtime.greedy import greedy


def small_llm(width: int) -> PreTrainedModel:
    torch.manual_seed(1)
    config = Gemma2Config(
        vocab_size=90,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=6,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)


def texts(llm: PreTrainedModel, count: int = 1) -> tuple[Tensor, Tensor]:
    """Prompts of one length, longer than the window."""
    ids = torch.randint(0, 90, (count, 11), generator=torch.Generator().manual_seed(2))
    return llm.get_input_embeddings()(ids), torch.ones_like(ids)


def logits(engine: Engine, prompts: Any) -> Tensor:
    first, reading = engine.prefill(*prompts)
    said = torch.arange(3)[:, None].expand(-1, len(first))
    return torch.stack([first, *(reading.step(tokens) for tokens in said)]).clone()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside of torch.compile
def test_what_cannot_be_traced_is_not_compiled_in_pieces() -> None:
    class Untraceable(torch.nn.GELU):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return super().forward(x)

    llm = small_llm(24)
    llm.model.layers[1].mlp.act_fn = Untraceable()
    engine = Engine(llm, compiled=True)
    with pytest.warns(UserWarning, match="decode steps are not compiled: Unsupported"):
        found = logits(engine, texts(llm))
    torch.testing.assert_close(found, logits(Engine(llm), texts(llm)), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside of torch.compile
def test_compiled_steps_give_the_same_logits() -> None:
    llm = small_llm(32)
    engine = engine_of(llm, compiled=True)
    found = logits(engine, texts(llm))
    if "not compiled" in engine.note:
        pytest.skip(engine.note)
    torch.testing.assert_close(found, logits(Engine(llm), texts(llm)), atol=1e-5, rtol=1e-4)
    assert "torch.compile" in engine.note
    torch.testing.assert_close(logits(engine, texts(llm, 2)), logits(Engine(llm), texts(llm, 2)))
    assert engine_of(llm, compiled=True) is engine
    import torch._dynamo.config as dynamo

    limited = dynamo.patch(recompile_limit=1)
    with limited, pytest.warns(UserWarning, match="not compiled: FailOnRecompileLimitHit"):
        engine.prefill(*texts(llm), room=300)[1].step(torch.tensor([1]))
    assert engine_of(llm) is not engine


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside of torch.compile
def test_positions_with_a_gap() -> None:
    """As transformers, reading a text with masked columns in the gap: there, windows count positions too."""
    import torch._dynamo.config as dynamo

    torch._dynamo.reset()  # the steps of another test's model would make this one's first a recompilation
    llm = small_llm(48)
    embeds, mask = texts(llm)
    before, gap = 7, 4
    positions = torch.arange(embeds.shape[1])[None]
    positions = positions + gap * (positions >= before)
    filled = embeds.new_zeros(1, embeds.shape[1] + gap, embeds.shape[2])
    filled[:, positions[0]] = embeds
    holed = torch.zeros(filled.shape[:2], dtype=torch.int64)
    holed[:, positions[0]] = 1
    places = torch.arange(len(holed[0]))[None]

    engine = Engine(llm, compiled=True)
    first, reading = engine.prefill(embeds, mask, positions=positions)
    expected, theirs = fallback.prefill(llm, filled, holed, places)
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-4)
    # One graph for all tokens. In inference mode, as greedy search is: Dynamo counts that as a tensor's kind.
    with dynamo.patch(error_on_recompile=True), torch.inference_mode():
        for token in torch.arange(5)[:, None]:
            torch.testing.assert_close(reading.step(token), theirs.step(token), atol=1e-5, rtol=1e-4)
            if "not compiled" in engine.note:
                pytest.skip(engine.note)
        for beams, find in ((1, greedy), (3, beam_search)):
            search = Search(max_new_tokens=8, ends=(1,), pad=0, num_beams=beams)
            ours = find(*engine.prefill(embeds, mask, positions=positions), search, mask)
            ids = llm.generate(
                inputs_embeds=filled,
                attention_mask=holed,
                position_ids=places,
                max_new_tokens=8,
                num_beams=beams,
                do_sample=False,
            )
            assert ours.tolist() == ids.tolist()
    assert "not compiled" not in engine.note


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside of torch.compile
def test_without_a_compiler_steps_run_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor.cpp, "cxx", ("/no/such/compiler",))
    llm = small_llm(40)
    engine = Engine(llm, compiled=True)
    with pytest.warns(UserWarning, match="decode steps are not compiled"):
        found = logits(engine, texts(llm))
    torch.testing.assert_close(found, logits(Engine(llm), texts(llm)), atol=1e-5, rtol=1e-4)
    assert "not compiled" in engine.note
