"""Fewer tokens, the same answers: what is kept, in which order it is filled up, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError

from audiolm_compress.data.loading import load_examples
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.quantize_embedding import QuantizeEmbedding
from audiolm_compress.passes.vocab_trim import VocabTrim, choose_tokens, read_texts
from audiolm_compress.quantization import QuantizedEmbedding
from audiolm_compress.salmonn.load import TINY, load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.subwords import Subwords
from audiolm_compress.salmonn.vocabulary import open_vocabulary

SmallModel = Callable[[str], Salmonn]


def old_ids(model: Salmonn, original: Salmonn) -> list[int]:
    """The former id of each token."""
    names = {number: name for name, number in model.tokenizer.get_vocab().items()}
    vocab = original.tokenizer.get_vocab()
    return [vocab[names[number]] for number in range(len(names))]


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_kept_tokens_are_read_and_scored_as_before(
    small_model: SmallModel, context: Context, variant: str
) -> None:
    model, original = small_model(variant), small_model(variant)
    report = VocabTrim(round_to=1, check_clips=2).apply(model, context)
    old = old_ids(model, original)
    assert report.figures["tokens"] == len(old) == len(model.tokenizer) < len(original.tokenizer)
    assert report.figures["calibration_tokens_kept"] == 1
    examples = list(context.calibration[:2])
    now, before = model.prepare_training(examples), original.prepare_training(examples)
    assert now.labels is not None and before.labels is not None
    assert torch.equal(now.embeds, before.embeds)
    answer = now.labels >= 0
    assert torch.equal(torch.tensor(old)[now.labels[answer]], before.labels[answer])
    torch.testing.assert_close(model.score(now), original.score(before)[..., old], rtol=0, atol=0)
    assert report.figures["loss"] <= report.figures["loss_before"]


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_before_and_after_quantisation_are_the_same(
    small_model: SmallModel, context: Context, clips: list[torch.Tensor], variant: str
) -> None:
    first, last = small_model(variant), small_model(variant)
    VocabTrim(check_clips=2).apply(first, context)
    QuantizeEmbedding().apply(first, context)
    QuantizeEmbedding().apply(last, context)
    VocabTrim(check_clips=2).apply(last, context)
    one, other = first.state_dict(), last.state_dict()
    assert first.replaced == last.replaced
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert isinstance(last.causal_lm.get_input_embeddings(), QuantizedEmbedding)
    with torch.inference_mode():
        inputs = first.prepare(clips)
        assert torch.equal(first.score(inputs), last.score(inputs))


def test_bytes_and_ids_of_the_report_and_the_configs(small_model: SmallModel, context: Context) -> None:
    model, original = small_model("llama"), small_model("llama")
    llm = model.causal_lm
    gone = original.tokenizer.convert_tokens_to_ids("Ġtwo")
    llm.generation_config.suppress_tokens = [5, gone]
    llm.generation_config.bad_words_ids = [[gone], [5, 6]]
    before = sum(model.weight_bytes().values())
    report = VocabTrim(round_to=1, check_clips=2).apply(model, context)
    old = old_ids(model, original)
    assert gone not in old
    width = llm.config.hidden_size
    assert report.figures["saved_bytes"] == before - sum(model.weight_bytes().values())
    assert report.figures["saved_bytes"] == 2 * 4 * width * (331 - len(old))  # embedding and head, untied
    assert report.figures["head_bytes"] == 4 * width * len(old)
    assert llm.config.vocab_size == len(old)
    assert [old[n] for n in llm.generation_config.eos_token_id] == [2, 3]
    assert [old[n] for n in llm.generation_config.suppress_tokens] == [5]
    assert [[old[n] for n in words] for words in llm.generation_config.bad_words_ids] == [[5, 6]]
    assert report.figures["held_out_length"] >= 1


def test_filled_up_by_frequency_then_by_id(small_model: SmallModel, tmp_path: Path) -> None:
    vocabulary = open_vocabulary(small_model("llama"))
    required = vocabulary.required()
    base = len(choose_tokens(vocabulary, required, Counter(), None, 1))
    ids = {token: number for number, token in vocabulary.tokens.items()}
    often, seldom = ids["Ġthe"], ids["ten"]
    parts = vocabulary.with_parts(often) - required
    assert parts == {ids["Ġt"], ids["Ġth"], often}
    counts = Counter({often: 5, seldom: 1})

    def chosen(size: int | None, round_to: int = 1) -> set[int]:
        return choose_tokens(vocabulary, required, counts, size, round_to) - required

    assert chosen(None) == parts | vocabulary.with_parts(seldom) - required
    assert chosen(base + 3) == parts
    assert seldom not in chosen(base + 3) | chosen(base + 1)
    unseen = sorted(set(vocabulary.tokens) - required - chosen(None))
    assert chosen(len(chosen(None)) + base + 2) == chosen(None) | set(unseen[:2])
    assert (len(chosen(None, 32)) + base) % 32 == 0
    assert len(chosen(330, 64)) + base == 330  # 384 do not exist
    assert len(chosen(10**6)) + base == 331


def test_texts_of_both_forms_are_kept(small_model: SmallModel, context: Context, tmp_path: Path) -> None:
    plain, annotation = tmp_path / "more.txt", tmp_path / "more.json"
    plain.write_text("describe the audio\n\n  speech\n", encoding="utf-8")
    entry = {"path": "a.wav", "text": "a", "texts": ["a", "the dog"], "task": "QA", "Q": "what is it"}
    annotation.write_text(json.dumps({"annotation": [entry]}), encoding="utf-8")
    assert read_texts(plain) == ["describe the audio", "  speech"]
    assert read_texts(annotation) == ["a", "the dog", "what is it"]
    model, original = small_model("llama"), small_model("llama")
    report = VocabTrim(texts=(plain, annotation), round_to=1, check_clips=1).apply(model, context)
    assert report.figures["text_tokens_kept"] == 1
    old = old_ids(model, original)
    for text in (*read_texts(plain), *read_texts(annotation)):
        assert [old[n] for n in model._ids(text)] == original._ids(text)


def test_nothing_to_remove_is_said(small_model: SmallModel, context: Context) -> None:
    report = VocabTrim(size=10**6).apply(small_model("llama"), context)
    assert not report.changed
    assert "all 331 tokens" in report.summary


def test_refusals(small_model: SmallModel, context: Context, tmp_path: Path) -> None:
    model = small_model("gemma")
    before = model.tokenizer.get_vocab()
    with pytest.raises(PassError, match=r"size=200, but (\d+) tokens must be kept.*at least \1"):
        VocabTrim(size=200).apply(model, context)
    with pytest.raises(PassError, match="no calibration clips"):
        VocabTrim().apply(model, dataclasses.replace(context, calibration=[]))
    with pytest.raises(ValidationError, match="no such file"):
        VocabTrim(texts=(tmp_path / "missing.txt",))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(PassError, match="has no text"):
        VocabTrim(texts=(tmp_path / "empty.txt",)).apply(model, context)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PassError, match="cannot be read as text"):
        VocabTrim(texts=(tmp_path / "binary.txt",)).apply(model, context)
    model.causal_lm.generation_config.sequence_bias = [[[5], 1.0]]
    with pytest.raises(PassError, match="sequence_bias"):
        VocabTrim().apply(model, context)
    assert model.tokenizer.get_vocab() == before


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
@pytest.mark.parametrize("adapters", [{"target_modules": ["embed_tokens"]}, {"target_modules": ["lm_head"]}])
def test_adapters_of_embedding_or_head_are_refused(
    small_model: SmallModel, context: Context, adapters: dict[str, list[str]]
) -> None:
    model = small_model("llama")
    model.merge_lora()
    model.llm = get_peft_model(model.llm, LoraConfig(task_type="CAUSAL_LM", r=2, **adapters))
    with pytest.raises(PassError, match="merge adapters first"):
        VocabTrim().apply(model, context)


@pytest.mark.slow
def test_tiny_says_the_same_with_1500_tokens(context: Context, tmp_path: Path) -> None:
    """The embedded baseline, greedily, where none of the removed tokens is one of its answers'."""
    model, original = load_model("tiny"), load_model("tiny")
    settings = model.decode_settings("asr", num_beams=1)
    waveforms = [e.waveform for e in load_examples(TINY / "data" / "test.json", limit=3).examples]
    before = [original.generate_ids(original.prepare([waveform]), settings) for waveform in waveforms]
    answers = [text for ids in before for text in original.texts(ids, settings)]
    (tmp_path / "answers.txt").write_text("\n".join(answers), encoding="utf-8")
    trim = VocabTrim(texts=(tmp_path / "answers.txt",), size=1500, round_to=4, check_clips=1)
    assert trim.apply(model, context).figures["tokens"] == 1500 == model.causal_lm.config.vocab_size
    old = torch.tensor(old_ids(model, original))
    now = [model.generate_ids(model.prepare([waveform]), settings) for waveform in waveforms]
    assert all(torch.equal(old[ids], ids_before) for ids, ids_before in zip(now, before, strict=True))
    assert [text for ids in now for text in model.texts(ids, settings)] == answers


def test_texts_that_are_held_out_do_not_count(context: Context, tmp_path: Path) -> None:
    """Giving the calibration texts themselves as texts must not hide what unknown texts would cost."""
    model = load_model("tiny")
    (tmp_path / "own.txt").write_text("\n".join(e.text for e in context.calibration), encoding="utf-8")
    report = VocabTrim(texts=(tmp_path / "own.txt",), check_clips=1).apply(model, context)
    assert report.figures["held_out_length"] > 1.5
    assert any("were not given" in note for note in report.notes)


def test_required_tokens_spell_any_text(small_model: SmallModel) -> None:
    vocabulary = Subwords(small_model("gemma").tokenizer.backend_tokenizer)
    trimmed = vocabulary.trim(vocabulary.order(vocabulary.required()))
    for text in ("the quick brown fox", "Ωμέγα 🦜 ▁", "\n\t"):
        assert trimmed.decode(trimmed.encode(text).ids) == text.replace("▁", " ")
