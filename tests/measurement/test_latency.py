"""The timed path gives the same tokens as ordinary generation, and counts what it says."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Callable

import pytest
import torch

from audiolm_compress.data.example import Example
from audiolm_compress.measurement.batches import batch_latency, timed_batch
from audiolm_compress.measurement.latency import (
    clips_latency,
    noise_latency,
    timed_answer,
    transformers_latency,
)
from audiolm_compress.measurement.reporter import Reporter
from audiolm_compress.measurement.rounds import Rounds, quiet_clock
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.salmonn.generation import end_ids
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.stages import STAGES, listening, stage

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


def rounds(stream: io.StringIO, count: int = 1) -> Rounds:
    return Rounds(torch.device("cpu"), count, Reporter(stream))


def started(stream: io.StringIO) -> list[tuple[int, int]]:
    """Steps that each line of progress said it had, and how many were done."""
    lines: list[tuple[int, int]] = []
    for message in map(json.loads, stream.getvalue().splitlines()):
        if "start" in message:
            lines.append((message["total"], 0))
        else:
            lines[-1] = (lines[-1][0], lines[-1][1] + message["advance"])
    return lines


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("source", ["gemma", "llama", "tiny"])
def test_the_parts_add_up_to_the_time_to_the_first_token(
    source: str, device: str, small_model: Callable[[str], Salmonn], clips: list[torch.Tensor]
) -> None:
    """In every single run, and without counting what is beside the stages."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a card")
    model = load_model("tiny") if source == "tiny" else small_model(source)
    model.to(device)
    for _ in range(2):
        for clip in clips:
            answer = timed_answer(model, lambda clip=clip: model.prepare([clip], "asr"), 2, frozenset())
            assert tuple(answer.stages) == STAGES
            assert all(seconds > 0 for seconds in answer.stages.values())
            assert sum(answer.stages.values()) == pytest.approx(answer.first, rel=0.05)
            assert sum(answer.parts.values()) == pytest.approx(answer.first)


def test_a_model_without_an_audio_encoder_has_no_such_part(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor]
) -> None:
    model = small_model("llama")
    model.audio_encoder = None
    with listening(model.device) as clock, torch.inference_mode():
        model.encode_speech(clips[:1])
        assert model.encode_sound(clips[:1]) is None
    assert list(clock.seconds()) == ["features", "speech_encoder"]


def test_a_stage_inside_another_interrupts_it() -> None:
    with listening(torch.device("cpu")) as clock:
        readings = iter(range(100))
        clock._mark = lambda: next(readings)  # each look at the clock takes a second
        with stage("audio_encoder"), stage("features"):
            pass
        next(readings)
        with stage("prefill"):
            pass
    assert clock.seconds() == {"features": 1, "audio_encoder": 2, "prefill": 1}
    with stage("features"):
        pass
    assert clock.seconds()["features"] == 1, "nobody is listening any more"


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
    model, stream = small_model("llama"), io.StringIO()
    on_clips = clips_latency(model, examples, SETTINGS, rounds(stream))
    assert on_clips.ttft.runs == 2 and on_clips.tokens <= 5
    assert [*on_clips.parts] == [*STAGES, "other"]
    assert {part.runs for part in on_clips.parts.values()} == {2}
    assert on_clips.real_time_factor is not None and on_clips.real_time_factor.runs == 2
    on_noise = noise_latency(model, SETTINGS, 0, rounds(stream))
    assert on_noise.ttft.runs == 2 and on_noise.tokens == 2.0
    assert on_noise.tpot is not None and on_noise.tpot.runs == 2 and on_noise.tpot.p5 > 0
    assert on_noise.parts and on_noise.real_time_factor is None
    in_transformers = transformers_latency(model, examples, SETTINGS, rounds(stream))
    assert in_transformers.ttft.runs == 2 and in_transformers.tokens == on_clips.tokens
    assert in_transformers.tpot is not None and in_transformers.tpot.p5 > 0
    assert "transformers" in in_transformers.protocol and not in_transformers.parts
    assert started(stream) == [(1 + 2, 1 + 2)] * 3


def test_real_time_factor_is_a_full_answers_time_by_the_clips_length(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor]
) -> None:
    one = [Example("a", clips[1], "asr", "x")]
    found = clips_latency(small_model("llama"), one, SETTINGS, rounds(io.StringIO()))
    assert found.tpot is not None and found.real_time_factor is not None
    seconds = found.ttft.median + found.tpot.median * (found.tokens - 1)
    assert found.real_time_factor.median == pytest.approx(seconds / (len(clips[1]) / 16_000))


def test_a_batch_answers_what_each_clip_is_answered_alone(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor]
) -> None:
    """The longest answer of the batch: one clip is asked for longer answers than the other."""
    model = small_model("llama")
    batch = [Example("a", clips[0], "asr", "x"), Example("b", clips[0], "audiocaption", "x")]
    ends = frozenset(end_ids(model)[0])
    alone = timed_answer(model, lambda: model.prepare_examples(batch[1:]), 5, ends)
    assert timed_batch(model, batch, SETTINGS, ends).ids == alone.ids


def test_batches_and_their_counts(small_model: Callable[[str], Salmonn], examples: list[Example]) -> None:
    stream = io.StringIO()
    found = batch_latency(small_model("llama"), examples, SETTINGS, 3, rounds(stream))
    assert found.size == 3 and found.ttft.runs == 1 and found.step is not None
    assert started(stream) == [(2, 2)]
    longest = 5
    seconds = found.ttft.median + found.step.median * (longest - 1)
    assert found.clips_per_second == pytest.approx(3 / seconds, rel=1e-6)


def test_the_collector_rests_and_wakes_up_again() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"), quiet_clock():
        assert not gc.isenabled()
        raise ValueError("inside")
    assert gc.isenabled()
