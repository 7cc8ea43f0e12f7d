"""The timed path gives the same tokens as ordinary generation, and counts what it says."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

from audiolm_compress.data.example import Example
from audiolm_compress.measurement.latency import (
    clip_steps,
    clips_latency,
    noise_latency,
    quiet_clock,
    steps,
    timed_answer,
    transformers_latency,
)
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.salmonn.model import Salmonn

SETTINGS = BenchmarkSettings.model_validate(
    {
        "decode": {"asr": {"max_new_tokens": 3}, "aac": {"max_new_tokens": 5}},
        "latency": {"clips": 2, "warmup": 1},
        "noise_protocol": {"warmup": 1, "iterations": 2},
    }
)


@pytest.fixture(scope="module")
def examples(clips: list[torch.Tensor]) -> list[Example]:
    tasks = ("audiocaption", "asr", "asr")
    return [Example(f"clip{index}", clips[index % 2], task, "x", ("x",)) for index, task in enumerate(tasks)]


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_timed_ids_are_those_of_greedy_generation(
    variant: str, small_model: Callable[[str], Salmonn], clips: list[torch.Tensor]
) -> None:
    model = small_model(variant)
    greedy = model.decode_settings("asr", num_beams=1, max_new_tokens=6)
    for clip in clips:
        with torch.inference_mode():
            expected = model.generate_ids(model.prepare([clip], "asr"), greedy)[0].tolist()
        answer = timed_answer(model, lambda clip=clip: model.prepare([clip], "asr"), 6, frozenset())
        assert list(answer.ids[: len(expected)]) == expected
        assert answer.first > 0 and answer.further > 0
        assert answer.per_token == pytest.approx(answer.further / 5)


def test_an_end_symbol_ends_the_answer(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor]
) -> None:
    model = small_model("llama")
    full = timed_answer(model, lambda: model.prepare(clips[:1], "asr"), 4, frozenset())
    short = timed_answer(model, lambda: model.prepare(clips[:1], "asr"), 4, frozenset(full.ids[:1]))
    assert short.ids == full.ids[:1] and short.per_token is None


def test_protocols_and_their_counts(small_model: Callable[[str], Salmonn], examples: list[Example]) -> None:
    model = small_model("llama")
    calls: list[int] = []
    on_clips = clips_latency(model, examples, SETTINGS, lambda: calls.append(1))
    assert on_clips.ttft.runs == 2 and on_clips.tokens <= 5
    on_noise = noise_latency(model, SETTINGS, 0, lambda: calls.append(1))
    assert on_noise.ttft.runs == 2 and on_noise.tokens == 2.0
    assert on_noise.tpot is not None and on_noise.tpot.runs == 2 and on_noise.tpot.p5 > 0
    assert len(calls) == steps(SETTINGS, len(examples)) == 1 + 2 + 3
    calls.clear()
    in_transformers = transformers_latency(model, examples, SETTINGS, lambda: calls.append(1))
    assert in_transformers.ttft.runs == 2 and in_transformers.tokens == on_clips.tokens
    assert in_transformers.tpot is not None and in_transformers.tpot.p5 > 0
    assert "transformers" in in_transformers.protocol
    assert len(calls) == clip_steps(SETTINGS, len(examples)) == 1 + 2


def test_the_collector_rests_and_wakes_up_again() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"), quiet_clock():
        assert not gc.isenabled()
        raise ValueError("inside")
    assert gc.isenabled()
