"""Decode settings are found that score better or cost less; each task has its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from audiolm_compress.data.loading import load_examples
from audiolm_compress.passes import DecodeSearch
from audiolm_compress.passes.base import Context, Silent
from audiolm_compress.passes.decode_search import longest_answer
from audiolm_compress.passes.heard_clips import HeardClips
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.load import TINY, load_model
from audiolm_compress.salmonn.model import Salmonn

QUICK = {
    "fewest_clips": 4,
    "finalists": 1,
    "confidence": 0.75,
    "length_penalty": (),
    "repetition_penalty": (),
}
COSTLY = {"wer": 9.0, "cider_d": 9.0}


def test_where_answers_are_worth_nothing_the_least_work_wins(
    small_model: Callable[[str], Salmonn], context: Context
) -> None:
    model = small_model("llama")
    model.decode = {"default": DecodeSettings(max_new_tokens=12, num_beams=4)}
    report = DecodeSearch(**QUICK, num_beams=(1, 2, 4), latency_weight=COSTLY).apply(model, context)
    assert report.changed
    assert model.decode_settings("asr").num_beams == model.decode_settings("audiocaption").num_beams == 1
    assert model.decode["default"].num_beams == 4, "tasks that nobody looked at keep what they had"
    assert report.figures["asr: work after"] < report.figures["asr: work before"] / 3
    tried = {row["num_beams"] for row in report.modules if row["stage"] == "race 1"}
    assert tried == {1, 2, 4}


def test_combinations_have_an_effect_each() -> None:
    before = DecodeSettings(max_new_tokens=50, num_beams=1)
    search = DecodeSearch(num_beams=(1, 2), length_penalty=(0.0, 1.0), repetition_penalty=(1.0, 1.2))
    found = search.combinations(before, limit=20)
    assert before.model_copy(update={"max_new_tokens": 20}) == found[0]
    assert len(found) == len(set(found)) == 2 + 4, "without beams a length penalty has none"
    assert {one.max_new_tokens for one in found} == {20}
    assert before not in search.combinations(before, limit=None)
    assert {one.max_new_tokens for one in search.combinations(before, limit=90)} == {50}


def test_sampling_is_tried_to_be_switched_off_but_not_on() -> None:
    for sampling in (True, False):
        before = DecodeSettings(do_sample=sampling)
        found = DecodeSearch(num_beams=(1, 4)).combinations(before, limit=20)
        assert {one.do_sample for one in found} == {False, sampling}


def test_the_limit_is_the_longest_reference_with_its_end(small_model: Callable[[str], Salmonn]) -> None:
    model = small_model("llama")
    long = "a dog barks in the rain"
    assert longest_answer(model, ["a dog", long], 1.5) == -(-3 * len(model.answer_ids(long)) // 2)


def test_sampling_is_searched_alike_with_the_same_seed(
    small_model: Callable[[str], Salmonn], context: Context
) -> None:
    search = DecodeSearch(**QUICK, num_beams=(1,), do_sample=(False, True))
    histories = []
    for disturbed in (0, 5):
        context.rng.manual_seed(7)
        torch.manual_seed(disturbed)  # whatever came before must not matter
        histories.append(search.apply(small_model("llama"), context).modules)
    assert histories[0] == histories[1]
    assert {row["do_sample"] for row in histories[0]} == {False, True}


def test_answers_are_those_of_the_model(small_model: Callable[[str], Salmonn], context: Context) -> None:
    """Audio heard before gives what the model itself answers, clip by clip, in the order that was asked."""
    model = small_model("gemma")
    heard = HeardClips(model, context.calibration, 3, 0, Silent())
    short = DecodeSettings(max_new_tokens=5, num_beams=1)
    found = heard.answers([3, 0, 2], model.prompts, lambda task: short)
    for index, answer in zip([3, 0, 2], found, strict=True):
        example = context.calibration[index]
        alone = model.generate([example.waveform], example.task, **short.model_dump())
        assert [answer.text] == alone
        assert 1 <= answer.tokens <= 5


def test_alike_tasks_are_one_group(small_model: Callable[[str], Salmonn], context: Context) -> None:
    examples = [
        replace(example, task="audiocaption_v2") if index % 4 == 0 else example
        for index, example in enumerate(context.calibration)
    ]
    model = small_model("llama")
    model.decode = {"default": DecodeSettings(max_new_tokens=3, num_beams=2)}
    groups, _ = DecodeSearch(**QUICK).groups(model, examples, model.decode_settings)
    assert [group.tasks[0] for group in groups if group.metric == "cider_d"] == ["audiocaption_v2"]
    assert sum(len(group.clips) for group in groups) == len(examples)
    model.decode["audiocaption_v2"] = DecodeSettings(max_new_tokens=4, num_beams=2)
    groups, notes = DecodeSearch(**QUICK).groups(model, examples, model.decode_settings)
    assert all(group.metric == "wer" for group in groups) and len(notes) == 2


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_beams"):
        DecodeSearch(num_beams=(0, 1))
    with pytest.raises(ValidationError, match="latency_weight"):
        DecodeSearch(latency_weight={"bleu": 1.0})


@pytest.mark.slow
def test_a_trained_model_is_freed_of_a_harmful_setting() -> None:
    """Sixteen captions of `tiny`, which end at their first blank until its end symbol is found."""
    model = load_model("tiny")
    examples = load_examples(str(TINY / "data" / "calibration.json"), limit=32).examples
    captions = [example for example in examples if example.task != "asr"]
    own = model.decode["default"]
    model.decode = {"default": own.model_copy(update={"end_sym": " ", "num_beams": 1})}
    search = DecodeSearch(**QUICK | {"confidence": 0.95}, num_beams=(1,), end_sym=(" ", own.end_sym))
    context = Context(captions, torch.Generator().manual_seed(0), lambda: model)
    report = search.apply(model, context)
    assert model.decode_settings("audiocaption_v2").end_sym == own.end_sym
    figures = {name.rpartition("cider_d ")[2]: value for name, value in report.figures.items()}
    assert figures["search after"] > figures["search before"] + 1
    assert figures["held-out after"] > figures["held-out before"]
