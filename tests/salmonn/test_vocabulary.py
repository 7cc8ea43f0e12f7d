"""Trimmed tokenizers of every kind: kept texts keep their tokens, and any text can still be written."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, GemmaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from audiolm_compress.errors import PassError
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.subwords import BYTES, Subwords
from audiolm_compress.salmonn.vocabulary import (
    config_ids,
    open_vocabulary,
    prompt_texts,
    token_ids,
    trim_vocabulary,
)

TEXT = """
the a dog barks while rain falls on an old roof and people are talking loudly in the background birds
singing barking talked talker rainfall roofs engine engines running water waterfall flows café naïve
über straße señor пёс лает дождь идёт громко 猫が鳴く 犬 雨音 강아지가 짖는다 🎵 🐶 👩\u200d👩\u200d👧
123 2024 3.14 isn't don't
"""
WORDS = TEXT.split()
STRANGE = "ሰላም ᚠᚢᚦ 𐍈 \u0301e \t\n  ▁ \x00 ﷽ 🦜🇳🇱 <eos> </s> Ω≈ç√ \uff46\uff55\uff4c \u200d QZ~"
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+(?!\S)|\s+"
)


def sentences(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(count)]


def every_split(vocab: dict[str, int]) -> list[list[str]]:
    """Merges as conversions from SentencePiece and tiktoken write them: every way to split every token."""
    ordered = sorted(vocab, key=vocab.__getitem__)
    pairs = ([token[:cut], token[cut:]] for token in ordered for cut in range(1, len(token)))
    return [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]


def added(token: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": True} | flags


def template(token: str, number: int) -> dict[str, Any]:
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    names = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, second],
        "special_tokens": names,
    }


def edited(tokenizer: Tokenizer, **changes: Any) -> Tokenizer:
    content = json.loads(tokenizer.to_str())
    content["model"] |= changes.pop("model")
    return Tokenizer.from_str(json.dumps(content | changes))


def gemma() -> Tokenizer:
    """BPE over whole texts, spaces written as a block, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.train_from_iterator(sentences(300, 0), trainers.BpeTrainer(vocab_size=700, show_progress=False))
    learnt = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocab = {token: number for number, token in enumerate([*special, *BYTES, *learnt])}
    return edited(
        tokenizer,
        model={"vocab": vocab, "merges": every_split({token: vocab[token] for token in learnt})},
        added_tokens=[added(token, number) for number, token in enumerate(special)],
        post_processor=template("<bos>", 2),
    )


def byte_level(**model: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sentences(300, 0), trainer)
    return tokenizer


def llama() -> Tokenizer:
    """Byte-level BPE that takes known words whole, with words that no merges lead to."""
    tokenizer = byte_level(ignore_merges=True)
    vocab = tokenizer.get_vocab()
    merges = [pair for pair in every_split(vocab) if pair[0] + pair[1] != "Ġbackground"]
    size = len(vocab)
    return edited(
        tokenizer,
        model={"merges": merges},
        added_tokens=[added("<|begin_of_text|>", size), added("<|end_of_text|>", size + 1)],
        post_processor={
            "type": "Sequence",
            "processors": [json.loads(BYTE_OFFSETS), template("<|begin_of_text|>", size)],
        },
    )


BYTE_OFFSETS = '{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true}'


def qwen() -> Tokenizer:
    """Byte-level BPE over composed characters."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    size = tokenizer.get_vocab_size()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return edited(tokenizer, model={}, added_tokens=[added(name, size + i) for i, name in enumerate(names)])


def unigram(byte_fallback: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = ["<pad>", "</s>", "<unk>", *(BYTES if byte_fallback else ())]
    trainer = trainers.UnigramTrainer(
        vocab_size=900, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(sentences(300, 0), trainer)
    kept = json.loads(tokenizer.to_str())["added_tokens"][:3]  # as in real ones, bytes are no added tokens
    return edited(
        tokenizer,
        model={"byte_fallback": byte_fallback},
        added_tokens=kept,
        post_processor={"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<pad>", 0]},
    )


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gemma": gemma,
    "llama": llama,
    "qwen": qwen,
    "unigram": unigram,
    "unigram with bytes": lambda: unigram(byte_fallback=True),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def closed(subwords: Subwords, numbers: set[int]) -> set[int]:
    return set().union(*map(subwords.with_parts, subwords.required() | numbers))


def random_texts(rng: random.Random, tokens: list[str]) -> list[str]:
    """Sentences, glued subwords, pieces of both and characters of unknown scripts."""
    texts = [STRANGE, "", " ", *sentences(30, rng.randrange(10**6))]
    texts += ["".join(rng.choices(tokens, k=rng.randint(1, 6))) for _ in range(200)]
    texts += ["".join(rng.choices(STRANGE + "".join(WORDS), k=rng.randint(1, 20))) for _ in range(50)]
    cuts = [sorted(rng.choices(range(len(text) + 1), k=2)) for text in texts]
    return texts + [text[start:end] for text, (start, end) in zip(texts, cuts, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_kept_texts_keep_their_tokens_and_all_texts_can_be_written(tokenizer: Tokenizer, seed: int) -> None:
    rng = random.Random(seed)
    subwords = Subwords(tokenizer)
    seen = {n for text in sentences(4, seed + 1) for n in tokenizer.encode(text).ids}
    scattered = set(rng.sample(sorted(subwords.tokens), 40))
    kept = closed(subwords, seen | scattered)
    assert len(kept) < len(subwords.tokens)
    order = subwords.order(kept)
    trimmed = subwords.trim(order)
    assert trimmed.get_vocab_size() == len(order)
    same = whole = 0
    for text in random_texts(rng, [tokenizer.decode([n], skip_special_tokens=False) for n in order]):
        before, after = tokenizer.encode(text), trimmed.encode(text)
        if set(before.ids) <= kept:
            assert [order[n] for n in after.ids] == before.ids, text
            assert after.tokens == before.tokens
            same += 1
        if tokenizer.decode(before.ids) == text:
            assert trimmed.decode(after.ids) == text
            whole += 1
    assert same > 100
    assert whole > 100


def test_the_path_of_a_token_is_what_the_library_does(tokenizer: Tokenizer) -> None:
    """Reachable tokens, and only they, come out when their own text is the whole input of the model."""
    subwords = Subwords(tokenizer)
    own = json.loads(tokenizer.to_str())["model"]
    bare = edited(
        tokenizer, model={}, normalizer=None, pre_tokenizer=None, post_processor=None, added_tokens=[]
    )
    for number, token in subwords.tokens.items():
        if own["type"] == "Unigram":
            assert subwords.is_reachable(number)
        elif number not in subwords.required():
            assert subwords.is_reachable(number) == (bare.encode(token).ids == [number]), token


def test_keeping_everything_changes_nothing(tokenizer: Tokenizer) -> None:
    subwords = Subwords(tokenizer)
    trimmed = subwords.trim(subwords.order(subwords.tokens))
    assert json.loads(trimmed.to_str()) == json.loads(tokenizer.to_str())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"), "kind WordPiece"),
        (models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"), "kind WordLevel"),
        (models.BPE({"a": 0}, [], dropout=0.1), "dropout=0.1"),
        (models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"), "end_of_word_suffix='</w>'"),
        (
            models.BPE({**{b: i for i, b in enumerate(BYTES)}, "<0x00><0x01>": 256}, [("<0x00>", "<0x01>")]),
            "merges byte tokens",
        ),
    ],
)
def test_other_kinds_are_refused(model: Any, message: str) -> None:
    with pytest.raises(PassError, match=message):
        Subwords(Tokenizer(model))


# With a model around


@functools.cache  # the training of Unigram gives another vocabulary every time
def described(kind: str) -> str:
    return KINDS[kind]().to_str()


def wrapped(kind: str) -> Any:
    """The tokenizer as the class of transformers that such a checkpoint is loaded with."""
    backend = Tokenizer.from_str(described(kind))
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in model.get("merges", ())]
    if kind == "gemma":
        return GemmaTokenizer(vocab=model["vocab"], merges=merges, mask_token=None, padding_side="left")
    if kind == "qwen":
        return Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
    end = {"llama": "<|end_of_text|>"}.get(kind, "</s>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, padding_side="left")


@pytest.fixture
def speaking(small_model: Callable[[str], Salmonn]) -> Callable[[str], Salmonn]:
    """A small model with a tokenizer of some kind, an added [PAD] token and padded rows, as upstream's."""

    def build(kind: str) -> Salmonn:
        model = small_model("gemma" if kind == "gemma" else "llama")
        model.tokenizer = wrapped(kind)
        model.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        torch.manual_seed(0)
        model.causal_lm.resize_token_embeddings(len(model.tokenizer) + 7, mean_resizing=False)
        model.causal_lm.config.eos_token_id = [model.tokenizer.eos_token_id, len(model.tokenizer) + 2]
        model.causal_lm.generation_config.suppress_tokens = list(range(0, 900, 5))
        return model.requires_grad_(False)

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_model_and_reloaded_tokenizer_follow(
    speaking: Callable[[str], Salmonn], tmp_path: Path, kind: str
) -> None:
    model = speaking(kind)
    old = wrapped(kind)
    old.add_special_tokens({"pad_token": "[PAD]"})
    subwords = open_vocabulary(model)
    texts = [*sentences(5, 1), *prompt_texts(model)]
    numbers = {n for ids in token_ids(model.tokenizer, texts) for n in ids}
    order = subwords.order(closed(subwords, numbers | config_ids(model)))
    rows = model.causal_lm.get_input_embeddings().weight[order]
    logits = model.causal_lm(torch.tensor([[order[5], order[9]]])).logits[..., order]
    trim_vocabulary(model, subwords, order)

    assert torch.equal(model.causal_lm.get_input_embeddings().weight, rows)
    torch.testing.assert_close(model.causal_lm(torch.tensor([[5, 9]])).logits, logits)
    config, generation = model.causal_lm.config, model.causal_lm.generation_config
    assert config.vocab_size == len(order) < len(old)
    assert [order[n] for n in config.eos_token_id] == [old.eos_token_id, len(old) + 2]
    assert {order[n] for n in generation.suppress_tokens} == set(range(0, 900, 5)) & set(order)
    for text in texts:
        before = old(text, add_special_tokens=False).input_ids
        assert [order[n] for n in model.tokenizer(text, add_special_tokens=False).input_ids] == before
        assert [order[n] for n in model.tokenizer(text).input_ids] == old(text).input_ids

    model.tokenizer.save_pretrained(tmp_path)
    assert not any("vocab" in name for name in json.loads((tmp_path / "tokenizer_config.json").read_text()))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert json.loads(loaded.backend_tokenizer.to_str()) == json.loads(
        model.tokenizer.backend_tokenizer.to_str()
    )
    assert loaded.special_tokens_map == model.tokenizer.special_tokens_map
    assert (loaded.pad_token_id, loaded.eos_token_id) == (
        model.tokenizer.pad_token_id,
        model.tokenizer.eos_token_id,
    )
    assert loaded(STRANGE).input_ids == model.tokenizer(STRANGE).input_ids


def test_ids_beyond_the_embedding_are_refused(speaking: Callable[[str], Salmonn]) -> None:
    model = speaking("qwen")
    model.tokenizer.add_tokens([f"<extra{index}>" for index in range(8)])
    with pytest.raises(PassError, match=r"embedding has .* rows"):
        open_vocabulary(model)


def test_a_tokenizer_without_a_fast_backend_is_refused(speaking: Callable[[str], Salmonn]) -> None:
    from transformers import ByT5Tokenizer

    model = speaking("qwen")
    model.tokenizer = ByT5Tokenizer()
    with pytest.raises(PassError, match="ByT5Tokenizer has no fast tokenizer"):
        open_vocabulary(model)
