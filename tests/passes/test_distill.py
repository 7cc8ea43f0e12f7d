"""Distillation: what was cut comes nearer to the baseline, only what is named learns, types stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from audiolm_compress.data.augment import Augmentation
from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.errors import PassError
from audiolm_compress.passes import Cast, Distill, Gptq, QuantizeEmbedding, VocabTrim
from audiolm_compress.passes.base import Context, PassReport
from audiolm_compress.passes.recovery_settings import Losses
from audiolm_compress.passes.teacher import Teacher, Wanted, shared_tokens
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.training.features import FeatureCache

Loader = Callable[..., Salmonn]
Load = Callable[[], Salmonn]
SHORT: dict[str, Any] = {"epochs": None, "steps": 5, "learning_rate": 3e-4, "valid_share": 0.25}


@pytest.fixture
def student(small_model: Loader) -> Load:
    """Loads a model that hears clips at their own length, which takes a seventh of the time of 30 s."""

    def load() -> Salmonn:
        model = small_model("llama")
        model.bucket_seconds = 4.0
        return model

    return load


@pytest.fixture
def lessons(context: Context, student: Load) -> Context:
    """The clips of 3.2 s, and the baseline as the teacher."""
    short = [example for example in context.calibration if len(example.waveform) < 4 * SAMPLE_RATE]
    both = [
        replace(clip, id=f"{clip.id} {n}", waveform=clip.waveform.roll(7 * n))
        for n in (0, 1)
        for clip in short
    ]
    return replace(context, calibration=both[:6], reference=student)


def state(model: Salmonn) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed_parts(model: Salmonn, before: dict[str, torch.Tensor]) -> set[str]:
    after = model.state_dict()
    return {name.partition(".")[0] for name, old in before.items() if not torch.equal(old, after[name])}


def losses(report: PassReport, name: str) -> tuple[float, float]:
    return report.figures[f"{name}_before"], report.figures[f"{name}_after"]


def test_heals_dropped_layers(student: Load, lessons: Context) -> None:
    model = student()
    model.keep_layers("speech_encoder", [0, 2])
    model.keep_layers("audio_encoder", [0, 2])
    before = state(model)
    report = Distill(**SHORT).apply(model, lessons)
    for name in ("speech", "audio", "connector"):
        was, now = losses(report, name)
        assert 0 < now < was
    assert changed_parts(model, before) == {"speech_encoder", "audio_encoder", "connector"}
    assert torch.equal(
        model.state_dict()["speech_encoder.embed_positions.weight"],
        before["speech_encoder.embed_positions.weight"],
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_learns_in_16_bit_products(student: Load, lessons: Context) -> None:
    model = student()
    model.keep_layers("speech_encoder", [0, 2])
    report = Distill(mixed_precision="bf16", **SHORT).apply(model, lessons)
    was, now = losses(report, "speech")
    assert now < was
    assert {parameter.dtype for parameter in model.speech_encoder.parameters()} == {torch.float32}


def test_variants_are_learned_from_and_never_judged_by(student: Load, lessons: Context) -> None:
    settings = Distill(**SHORT | {"steps": 1}, augment=Augmentation(copies=2))
    report = settings.apply(student(), lessons)
    held_out = round(0.25 * len(lessons.calibration))
    learned = 3 * (len(lessons.calibration) - held_out)
    assert (report.figures["clips"], report.figures["held_out_clips"]) == (learned, held_out)


def test_what_does_not_help_is_taken_back(student: Load, lessons: Context) -> None:
    """The weights from before are among those that the held-out clips choose from."""
    model = student()
    model.keep_layers("speech_encoder", [0, 2])
    before = state(model)
    report = Distill(**SHORT | {"learning_rate": 5.0}).apply(model, lessons)
    assert not report.changed
    assert "left as it was" in report.summary
    assert changed_parts(model, before) == set()


def test_matches_unpadded_states_with_those_of_30_seconds(
    small_model: Loader, student: Load, lessons: Context
) -> None:
    """Nothing but the length of the audio tells student and teacher apart, and that is learned."""
    model = student()
    padded = replace(lessons, reference=lambda: small_model("llama"))
    only = Losses(audio=0, connector=0, logits=0, text=0)
    report = Distill(parts=("speech_encoder",), losses=only, **SHORT).apply(model, padded)
    was, now = losses(report, "speech")
    assert 0 < now < was
    assert set(report.figures) & {"audio_before", "connector_before", "logits_before", "text_before"} == set()


def test_an_unchanged_model_has_nothing_to_learn(student: Load, lessons: Context) -> None:
    model = student()
    report = Distill(losses=Losses(text=0), **SHORT | {"steps": 1, "learning_rate": 1e-9}).apply(
        model, lessons
    )
    for name in ("speech", "audio", "connector", "logits"):
        assert losses(report, name)[0] == pytest.approx(0, abs=2e-3)  # lessons are kept in 16 bit


def test_layers_can_be_matched_one_by_one(student: Load, lessons: Context) -> None:
    model = student()
    model.keep_layers("speech_encoder", [0, 2])
    teacher = Teacher(student(), model, Wanted(logits=False, speech_layers={0: 0, 1: 2}))
    lesson = teacher.lesson(lessons.calibration[0])
    assert {"speech", "speech.0", "speech.1", "audio", "connector"} == set(lesson)
    report = Distill(
        parts=("speech_encoder",), speech_layers={0: 1}, losses=Losses(logits=0, text=0, connector=0), **SHORT
    ).apply(model, lessons)
    was, now = losses(report, "speech")
    assert now < was
    assert any("audio loss is left out" in note for note in report.notes)
    with pytest.raises(PassError, match="layer 2 of speech_encoder is mapped, but the model has"):
        Distill(speech_layers={2: 0}).apply(model, lessons)
    with pytest.raises(PassError, match="layer 7 of speech_encoder is mapped, but the baseline has"):
        Distill(speech_layers={0: 7}).apply(model, lessons)


def test_sixteen_bit_weights_learn_in_32_and_stay_16(student: Load, lessons: Context) -> None:
    model = student()
    Cast(parts=("connector",), check_clips=1).apply(model, lessons)
    model.keep_layers("speech_encoder", [0, 1])
    before = state(model)
    report = Distill(parts=("connector",), **SHORT | {"learning_rate": 1e-4}).apply(model, lessons)
    assert {p.dtype for p in model.connector.parameters()} == {torch.bfloat16}
    assert changed_parts(model, before) == {"connector"}
    assert losses(report, "connector")[1] < losses(report, "connector")[0]


def test_what_is_reported_is_what_is_kept(student: Load, lessons: Context) -> None:
    """The loss afterwards is that of the weights as they were rounded, which a second look finds again."""
    model = student()
    Cast(parts=("connector",), check_clips=1).apply(model, lessons)
    model.keep_layers("speech_encoder", [0, 1])
    reports = []
    for settings in (SHORT | {"learning_rate": 1e-4}, SHORT | {"steps": 1}):
        lessons.rng.manual_seed(5)  # the same clips are held out
        only = Losses(logits=0, text=0)
        reports.append(Distill(parts=("connector",), losses=only, **settings).apply(model, lessons))
    first, second = reports
    assert first.changed
    assert losses(second, "connector")[0] == pytest.approx(losses(first, "connector")[1], rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
def test_gradients_pass_through_a_packed_llm(student: Load, lessons: Context) -> None:
    """The connector can learn to please an LLM whose weights are integers, which stay as they are."""
    model = student()
    model.merge_lora()
    Gptq(bits=3, group_size=32).apply(model, lessons)
    before = state(model)
    only = Losses(speech=0, audio=0, connector=0, text=0)
    report = Distill(parts=("connector",), losses=only, **SHORT).apply(model, lessons)
    assert losses(report, "logits")[1] < losses(report, "logits")[0]
    assert changed_parts(model, before) == {"connector"}
    rest = Distill(parts=("llm",), losses=only, **SHORT | {"steps": 1}).apply(model, lessons)
    assert any("packed layers are not trained: llm.model.layers.0." in note for note in rest.notes)
    QuantizeEmbedding().apply(model, lessons)
    with pytest.raises(PassError, match="llm has no dense weights left to train"):
        Distill(parts=("llm",)).apply(model, lessons)


def test_a_trimmed_vocabulary_is_compared_on_what_is_left(student: Load, lessons: Context) -> None:
    whole, model = student(), student()
    VocabTrim(check_clips=1).apply(model, lessons)
    mine, theirs = shared_tokens(model.tokenizer, whole.tokenizer)
    assert len(mine) == len(model.tokenizer) < len(whole.tokenizer)
    assert model.tokenizer.convert_ids_to_tokens(mine.tolist()) == whole.tokenizer.convert_ids_to_tokens(
        theirs.tolist()
    )
    report = Distill(losses=Losses(text=0), **SHORT | {"steps": 1, "learning_rate": 1e-9}).apply(
        model, lessons
    )
    assert losses(report, "logits")[0] == pytest.approx(0, abs=2e-3)


def test_refusals(student: Load, lessons: Context) -> None:
    model = student()
    with pytest.raises(ValidationError, match="would not end"):
        Distill(epochs=None)
    with pytest.raises(ValidationError, match="all losses are 0"):
        Losses(speech=0, audio=0, connector=0, logits=0, text=0)
    with pytest.raises(PassError, match="at least two clips"):
        Distill().apply(model, replace(lessons, calibration=lessons.calibration[:1]))
    with pytest.raises(PassError, match="no loss can change what is trained"):
        Distill(parts=("llm",), losses=Losses(logits=0, text=0)).apply(model, lessons)
    with pytest.raises(ValidationError, match=r"speech_layers does nothing beside losses\.speech=0"):
        Distill(speech_layers={0: 1}, losses=Losses(speech=0))
    model.tokenizer.add_tokens(["quick brown"])
    with pytest.raises(PassError, match=r"texts of 6 of 6 clips in other tokens, .* give losses\.text"):
        Distill(parts=("llm",), losses=Losses(text=0), **SHORT).apply(model, lessons)
    model.connector.set_windows(25, 25)
    with pytest.raises(PassError, match="distill: the student's audio tokens stand for other windows"):
        Distill().apply(model, lessons)


def test_lessons_are_kept_for_the_next_pass(student: Load, lessons: Context, tmp_path: Path) -> None:
    """Found again by what they depend on; the same as computed; another baseline has its own."""
    model, teacher, cache = student(), student(), FeatureCache(tmp_path, 2**30)
    clip = lessons.calibration[0]
    computed = Teacher(teacher, model, Wanted(), cache).lesson(clip)
    assert (cache.found, cache.computed) == (0, 2)  # what was heard, and what was read
    fewer = Teacher(student(), model, Wanted(speech=False, audio=False, connector=False), cache).lesson(clip)
    assert (cache.found, cache.computed) == (2, 2)
    assert fewer.keys() == {"logits"}
    assert torch.equal(fewer["logits"], computed["logits"])
    plain = Teacher(teacher, model, Wanted()).lesson(clip)
    assert plain.keys() == computed.keys() == {"speech", "audio", "connector", "logits"}
    assert all(torch.equal(plain[name], computed[name]) for name in plain)
    with torch.no_grad():
        teacher.connector.projection.weight.mul_(1.01)
    Teacher(teacher, model, Wanted(), cache).lesson(clip)
    assert cache.computed == 4


def test_what_frozen_parts_give_is_kept_beside_the_lessons(
    student: Load, lessons: Context, tmp_path: Path
) -> None:
    """With a cache on disk or without one: the same weights, also where 16-bit products have filled it."""
    cache = FeatureCache(tmp_path, 2**30)
    results = []
    for precision, features in (("bf16", cache), ("no", None), ("no", cache)):
        model = student()
        model.keep_layers("speech_encoder", [0, 2])
        lessons.rng.manual_seed(5)
        settings = SHORT | {"mixed_precision": precision, "losses": Losses(logits=0, text=0)}
        entry = Distill(parts=("connector",), **settings)
        assert entry.apply(model, replace(lessons, features=features)).changed
        results.append(state(model))
    results.pop(0)
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert cache.found > cache.computed > 0


def test_training_clips_go_before_calibration(student: Load, lessons: Context) -> None:
    few = lessons.calibration[:3]
    context = replace(lessons, training=few)
    report = Distill(**SHORT | {"steps": 1}).apply(student(), context)
    assert (report.figures["clips"], report.figures["held_out_clips"]) == (2, 1)
    said = "learned from the calibration clips, as there is no data.training"
    assert said not in report.notes
    assert said in Distill(**SHORT | {"steps": 1}).apply(student(), lessons).notes


def test_the_estimate_ends_where_the_training_does(small_model: Loader, lessons: Context) -> None:
    """Whichever of epochs and steps is first; of minutes it says that it does not know."""

    def work(**ends: Any) -> Sketch:
        sketch = Sketch(small_model("llama"), lessons.calibration)
        Distill(**ends).predict(sketch)
        return sketch

    four, two = work(epochs=4).runs[torch.float32], work(epochs=2).runs[torch.float32]
    assert two < four == work(epochs=4, steps=1000).runs[torch.float32]
    batch = len(lessons.calibration)
    assert work(epochs=4, steps=2, batch_size=batch).runs[torch.float32] == two
    assert any("5 minutes at the latest" in note for note in work(epochs=None, minutes=5).notes)
    with pytest.raises(PassError, match=r"at least two clips, .* found 1"):
        Distill().predict(Sketch(small_model("llama"), lessons.calibration[:1]))
