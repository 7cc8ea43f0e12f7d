"""Words are found that are answered better or cost less; what is tried is all in the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from audiolm_compress.data.loading import load_examples
from audiolm_compress.errors import PassError
from audiolm_compress.passes import PromptSearch
from audiolm_compress.passes.base import Context, PassReport
from audiolm_compress.passes.prompt_search import present_wording, prompt_tokens, search_prompts
from audiolm_compress.passes.proposer import LocalProposer
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import TINY, load_model
from audiolm_compress.salmonn.model import Salmonn

FRAME = "<Speech><SpeechHere></Speech> "
QUICK = {"fewest_clips": 4, "finalists": 1, "candidates": 4, "generations": 1, "confidence": 0.75}
COSTLY = {"wer": 9.0, "cider_d": 9.0}


def instructions(report: PassReport, stage: str) -> set[str]:
    return {row["instruction"] for row in report.modules if row["stage"] == stage}


def test_where_answers_are_worth_nothing_the_shortest_prompt_wins(
    small_model: Callable[[str], Salmonn], context: Context, tmp_path: Path
) -> None:
    model = small_model("llama")
    before = {task: prompt_tokens(model, present_wording(model)(task)) for task in ("asr", "audiocaption")}
    asked = {"asr": ("Go",), "aac": ("Hm", "and something longer")}
    search = PromptSearch(**QUICK, instructions=asked, templates=("{}",), length_penalty=COSTLY)
    report = search.apply(model, context)
    assert report.changed
    for task in before:
        tried = [row for row in report.modules if task in row["tasks"] and row["stage"] == "race 1"]
        found = present_wording(model)(task)
        assert prompt_tokens(model, found) == min(row["tokens"] for row in tried) < before[task]
    assert {FRAME + "Go", FRAME + "Hm", FRAME + "and something longer"} <= instructions(report, "race 1")
    assert "{}" in {row["template"] for row in report.modules}
    loaded = store.load(store.save(model, tmp_path / "model"))
    assert loaded.prompts == model.prompts
    assert loaded.prompts.around("asr") == model.prompts.around("asr")


def test_without_a_reason_nothing_changes(small_model: Callable[[str], Salmonn], context: Context) -> None:
    """Words that make the prompt longer and the answers no better."""
    model = small_model("llama")
    before = model.prompts
    longer = {"asr": ("Please do write down every single word of it",)}
    search = PromptSearch(**QUICK | {"candidates": 1}, instructions=longer, length_penalty=COSTLY)
    few = [example for example in context.calibration if example.task == "asr"]
    report = search.apply(model, Context(few, context.rng, context.reference))
    assert not report.changed and model.prompts == before
    assert "keeps its prompt: 1 others tried, none was ahead" in report.summary


def test_a_proposer_of_ones_own(small_model: Callable[[str], Salmonn], context: Context) -> None:
    asked: list[tuple[str, Sequence[str], int]] = []

    def propose(task: str, known: Sequence[str], count: int) -> list[str]:
        asked.append((task, known, count))
        return [f"{task}?"]

    model = small_model("llama")
    present = present_wording(model)("asr").words
    report = search_prompts(model, context, PromptSearch(**QUICK | {"candidates": 30}), propose)
    assert {task for task, _, _ in asked} == {"asr", "audiocaption"}
    assert present in next(known for task, known, _ in asked if task == "asr")
    assert {FRAME + "asr?", FRAME + "audiocaption?"} <= instructions(report, "race 1")
    assert any("1 instructions proposed" in note for note in report.notes)


def test_what_finds_no_room_is_told_and_a_proposer_takes_turns_with_training(
    small_model: Callable[[str], Salmonn], context: Context
) -> None:
    model = small_model("llama")
    search = PromptSearch(**QUICK | {"candidates": 3}, instructions={"asr": ("Go",)})
    groups, _ = search.groups(model, context.calibration, present_wording(model))
    (group,) = [group for group in groups if group.metric == "wer"]
    before = present_wording(model)("asr")
    first, left_out = search.seeds(group, before, ["one", "two"], ["three", "four"])
    assert [wording.words for wording in first] == ["Go", "one", "three"]
    assert [wording.words for wording in left_out] == ["two", "four"]
    report = search_prompts(model, context, search, lambda task, known, count: ["three", "four", "five"])
    assert any("asr: " in note and "were not tried, as candidates is 3" in note for note in report.notes)


def test_a_local_model_proposes_the_same_with_the_same_seed(parity: Path, tmp_path: Path) -> None:
    folder = parity / "llama" / "llm"
    one, other = LocalProposer(folder, 1), LocalProposer(folder, 2)
    found = one("asr", ["Transcribe the speech."], 4)
    assert found == one("asr", ["Transcribe the speech."], 4) != other("asr", ["Transcribe the speech."], 4)
    assert len(found) == len(set(found)) <= 4
    with pytest.raises(PassError, match=r"prompt_search: proposer=.* is no causal LM"):
        LocalProposer(tmp_path, 1)


def test_same_seed_same_history(small_model: Callable[[str], Salmonn], context: Context) -> None:
    search = PromptSearch(**QUICK | {"generations": 2}, length_penalty=COSTLY)
    histories = []
    for seed in (7, 7, 8):
        context.rng.manual_seed(seed)
        histories.append(search.apply(small_model("llama"), context).modules)
    assert histories[0] == histories[1] != histories[2]
    assert {"race 1", "race 2"} <= {row["stage"] for row in histories[0]}


def test_what_is_refused(context: Context, small_model: Callable[[str], Salmonn], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="must occur exactly once"):
        PromptSearch(templates=("no place",))
    with pytest.raises(ValidationError, match=r"neither \{\} nor <SpeechHere> may occur"):
        PromptSearch(systems=("Braces: {}",))
    with pytest.raises(ValidationError, match="must occur at most once"):
        PromptSearch(instructions={"asr": ("<SpeechHere><SpeechHere>",)})
    with pytest.raises(ValidationError, match="no such folder"):
        PromptSearch(proposer=tmp_path / "gone")
    with pytest.raises(ValidationError, match=r"has no config\.json"):
        PromptSearch(proposer=tmp_path)
    with pytest.raises(PassError, match="instructions for ars, but there are prompts for asr, aac, "):
        PromptSearch(instructions={"ars": ("Go",)}).apply(small_model("llama"), context)
    with pytest.raises(PassError, match="fewest_clips=16"):
        PromptSearch().predict(Sketch(small_model("llama"), context.calibration))


def test_a_price_that_is_not_named_keeps_its_default() -> None:
    assert PromptSearch(length_penalty={"wer": 0.0}).length_penalty == {"wer": 0.0, "cider_d": 0.002}


@pytest.mark.slow
def test_a_trained_model_gets_words_that_it_knows_in_the_place_of_strange_ones() -> None:
    """Sixteen captions of `tiny`, which was not trained on `Audio caption:` and hardly answers to it."""
    model = load_model("tiny")
    examples = load_examples(str(TINY / "data" / "calibration.json"), limit=32).examples
    captions = [example for example in examples if example.task != "asr"]
    strange = FRAME + "Audio caption:"
    model.prompts = model.prompts.worded(["audiocaption", "audiocaption_v2"], model.prompts.template, strange)
    search = PromptSearch(finalists=1, candidates=3, generations=1)
    context = Context(captions, torch.Generator().manual_seed(0), lambda: model)
    report = search.apply(model, context)
    assert report.changed
    assert model.prompts.instruction("audiocaption_v2") in model.prompts.train["audiocaption_v2"]
    figures = {name.rpartition("cider_d ")[2]: value for name, value in report.figures.items()}
    assert figures["search after"] > figures["search before"] + 1
    assert figures["held-out after"] > figures["held-out before"]
