"""A tokenizer as llama.cpp's metadata: which ones it reads as they are, and why.

llama.cpp does not run a tokenizer's description. It has its own code for a few kinds, and metadata choose
among them by name. A tokenizer that none of them equals would be read without complaint and give other ids,
so here it is recognised by what it does, or refused.

**Byte-level BPE** (``gpt2``). Texts are split into words by a pattern, words into bytes, and merges applied
by rank on both sides. The pattern is chosen by name (``tokenizer.ggml.pre``); ``PATTERNS`` has those that are
known to be equal. The names say nothing about the vocabulary, so a trimmed one keeps its name.

**SentencePiece-like BPE** (``llama``): characters, spaces written as one, unknown characters as bytes.
llama.cpp has no merges there. It joins the neighbours whose *result* is the token of the highest score, the
leftmost first, across all of the text. Scores are written as minus the rank of the merge that ends a token's
path, the sequence of merges that the token's own characters go through. Then both compute the same if

1. the path of no token stops one merge too early, with two symbols that no merge joins;
2. where the tokenizer splits texts before spaces, no token has a space inside.

Why: a merge never crosses the border of a token of the result, so what happens to neighbours l, r that
llama.cpp could join to a token t is what happens to the characters of t alone: their path comes to (l, r).
It does not stop there, so (l, r) is a merge of the tokenizer, with the rank that is t's score. A token whose
path stops with three symbols or more is met by neither.

Added tokens are cut out of texts before all this by both; but those with ``▁`` inside, such as Gemma's runs
of spaces, are not where a text has spaces, so they count as any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from audiolm_compress.errors import AudioLMError
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.subwords import BYTES, METASPACE, merge

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's llama_token_type
UNSCORED = -1e6  # of tokens that no merge makes
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What stands before the bytes, whether a word that is a token is taken whole -> llama.cpp's name.
PATTERNS: Mapping[tuple[str, bool], str] = {
    ("", False): "gpt-2",
    ("digits", False): "smollm",
    (_WORDS % r"\p{N}", False): "qwen2",
    (_WORDS % r"\p{N}{1,3}", True): "llama-bpe",
}


class Vocabulary(NamedTuple):
    """The metadata ``tokenizer.*`` by key, and what a user must know."""

    metadata: dict[str, Any]
    notes: tuple[str, ...]


class MergePath(NamedTuple):
    """How many symbols are ``left`` of a token's characters, and the rank of the ``last`` merge, if any."""

    left: int
    last: int | None


def vocabulary(model: Salmonn) -> Vocabulary:
    """The tokenizer of ``model``, one token a row of its embedding.

    Raises:
        AudioLMError: llama.cpp has no tokenizer that gives the same ids.
    """
    tokenizer = model.tokenizer
    if not tokenizer.is_fast:
        raise _refused(f"it is a {type(tokenizer).__name__}, which has no description that could be compared")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "BPE":
        raise _refused(f"it is of kind {content['model']['type']}, and only BPE is written")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if content["model"].get(option):
            raise _refused(f"it has {option}={content['model'][option]!r}")
    byte_level = "ByteLevel" in {step["type"] for step in _steps(content["pre_tokenizer"])}
    tokens, types = _tokens(model, content, byte_level)
    kind = _byte_level(content) if byte_level else _sentencepiece(content, tokens)
    metadata = {"ggml.tokens": tokens, "ggml.token_type": types, **kind.metadata, **_roles(model)}
    if isinstance(tokenizer.chat_template, str):
        metadata["chat_template"] = tokenizer.chat_template
    notes = list(kind.notes)
    if any(entry["lstrip"] or entry["rstrip"] or entry["single_word"] for entry in content["added_tokens"]):
        notes.append(
            "some added tokens swallow spaces around them or are whole words only; not so in llama.cpp"
        )
    return Vocabulary(metadata, tuple(notes))


def _byte_level(content: Mapping[str, Any]) -> Vocabulary:
    """The kind ``gpt2``: name of the pattern, and merges."""
    model, notes = content["model"], []
    normalizers = [step["type"] for step in _steps(content["normalizer"])]
    if normalizers == ["NFC"]:
        notes.append(
            "the tokenizer brings texts into Unicode's form NFC, llama.cpp does not: give it such texts"
        )
    elif normalizers:
        raise _refused(f"it changes texts by {', '.join(normalizers)} before it splits them")
    *before, last = _steps(content["pre_tokenizer"])
    own_pattern = last["type"] == "ByteLevel" and last.get("use_regex", True)
    found = ", ".join(f"{step['type']} {step.get('pattern', '')}".strip() for step in (*before, last))
    if not before and own_pattern:
        pattern = ""
    elif [one.get("individual_digits") for one in before] == [True] and own_pattern:
        pattern = "digits"
    elif len(before) == 1 and before[0]["type"] == "Split" and before[0]["behavior"] == "Isolated":
        pattern = before[0]["pattern"].get("Regex", "") if not (own_pattern or before[0]["invert"]) else "?"
    else:
        pattern = "?"
    name = PATTERNS.get((pattern, bool(model.get("ignore_merges"))))
    if name is None or last.get("add_prefix_space"):
        raise _refused(
            f"it splits texts by {found} (ignore_merges {bool(model.get('ignore_merges'))}, add_prefix_space "
            f"{bool(last.get('add_prefix_space'))}); known are the patterns that llama.cpp calls "
            f"{', '.join(PATTERNS.values())}"
        )
    merges = [f"{left} {right}" for left, right in model["merges"]]
    return Vocabulary({"ggml.model": "gpt2", "ggml.pre": name, "ggml.merges": merges}, tuple(notes))


def _sentencepiece(content: Mapping[str, Any], tokens: list[str]) -> Vocabulary:
    """The kind ``llama``, once it is sure that scores do what the merges do."""
    model, notes = content["model"], []
    if not (model.get("byte_fallback") and all(byte in model["vocab"] for byte in BYTES)):
        raise _refused("it is neither byte-level nor spells unknown characters as bytes")
    if model.get("ignore_merges"):
        raise _refused("it takes words that are tokens whole (ignore_merges)")
    prefix, splits = _spaces(content)
    if prefix in ("first", "always"):
        notes.append("llama.cpp puts a space before a text that begins with one too; the tokenizer does not")
    if prefix == "first":
        notes.append("llama.cpp puts a space before what follows a special token; the tokenizer does not")
    paths = _paths(model)
    apart = {entry["content"] for entry in content["added_tokens"] if METASPACE not in entry["content"]}
    apart.update(BYTES)
    for token in model["vocab"]:
        if token in apart:
            continue
        if splits and METASPACE in token[1:]:
            raise _refused(f"it splits texts at spaces, and llama.cpp would join {token!r} across them")
        if paths[token].left == 2:
            raise _refused(f"its merges do not lead to the token {token!r}, which llama.cpp would make")
    scores = {
        token: -float(path.last) for token, path in paths.items() if path.left == 1 and path.last is not None
    }
    metadata = {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.add_space_prefix": bool(prefix),
        "ggml.scores": [scores.get(token, UNSCORED) for token in tokens],
    }
    return Vocabulary(metadata, tuple(notes))


def _spaces(content: Mapping[str, Any]) -> tuple[str, bool]:
    """Which texts get a space in front, and whether texts are split before spaces.

    Those are none (""), all between special tokens ("each"), these but for such as begin with one
    ("always"), or of the latter only what a text begins with ("first").
    """
    prefix, splits, replaced = "", False, False
    for step in (*_steps(content["normalizer"]), *_steps(content["pre_tokenizer"])):
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                prefix = "each"
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                replaced = True
            case {"type": "Metaspace", "replacement": "▁"}:
                replaced, splits = True, splits or step["split"]
                prefix = prefix if step["prepend_scheme"] == "never" else step["prepend_scheme"]
            case {"type": "Split", "pattern": {"String": " "}} if replaced:
                pass  # there is no space any more
            case {"type": "Split", "pattern": {"String": "▁"}, "behavior": "MergedWithNext", "invert": False}:
                splits = True
            case {"type": "Split", "pattern": {"Regex": "▁?[^▁]+"}, "behavior": "Isolated", "invert": False}:
                splits = True
            case _:
                raise _refused(
                    f"llama.cpp has nothing like its step {step['type']} {step.get('pattern', '')}"
                )
    if not replaced:
        raise _refused("it does not write spaces as ▁")
    return prefix, splits


def _paths(model: Mapping[str, Any]) -> dict[str, MergePath]:
    """The path of each token."""
    merges = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    return {token: _path(token, merges) for token in model["vocab"]}


def _path(token: str, merges: Mapping[tuple[str, str], int]) -> MergePath:
    symbols = list(token)
    ranks = [rank for rank, _ in merge(symbols, merges)]
    return MergePath(len(symbols), ranks[-1] if ranks else None)


def _tokens(model: Salmonn, content: Mapping[str, Any], byte_level: bool) -> tuple[list[str], list[int]]:
    """Texts and types of the tokens by id; rows of the embedding that belong to none are ``[PADn]``."""
    rows = model.causal_lm.get_input_embeddings().num_embeddings
    names = {number: token for token, number in model.tokenizer.get_vocab().items()}
    if (largest := max(names)) >= rows:
        raise _refused(f"it has a token {names[largest]!r} of id {largest}, and the embedding {rows} rows")
    added = {entry["id"]: entry["special"] for entry in content["added_tokens"]}
    unknown = None if byte_level else model.tokenizer.unk_token_id
    tokens, types = [], []
    for number in range(rows):
        token = names.get(number)
        tokens.append(f"[PAD{number}]" if token is None else token)
        if token is None:
            types.append(UNUSED)
        elif number == unknown:
            types.append(UNKNOWN)
        elif number in added:
            types.append(CONTROL if added[number] else USER_DEFINED)
        else:
            types.append(BYTE if not byte_level and token in BYTES else NORMAL)
    return tokens, types


def _roles(model: Salmonn) -> dict[str, Any]:
    """Ids of special tokens, and which of them stand around texts."""
    tokenizer = model.tokenizer
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    ends = model.causal_lm.generation_config.eos_token_id
    others = [one for one in (ends if isinstance(ends, list) else [ends]) if one not in (None, ids["eos"])]
    if others:
        ids["eot"] = others[0]  # llama.cpp ends answers at either
    inner = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.backend_tokenizer.encode("a").ids
    before = whole[:1] == [ids["bos"]] and whole[:1] != inner[:1]
    after = whole[-1:] == [ids["eos"]] and whole[-1:] != inner[-1:]
    if whole != [ids["bos"]] * before + inner + [ids["eos"]] * after:
        raise _refused(f"it puts other tokens around texts than their begin and end: {whole} for {inner}")
    metadata = {f"ggml.{role}_token_id": number for role, number in ids.items() if number is not None}
    return metadata | {"ggml.add_bos_token": before, "ggml.add_eos_token": after}


def _steps(part: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, in order."""
    if not part:
        return []
    if part["type"] != "Sequence":
        return [dict(part)]
    inner = part.get("normalizers") or part.get("pretokenizers") or ()
    return [step for one in inner for step in _steps(one)]


def _refused(why: str) -> AudioLMError:
    return AudioLMError(
        f"--to gguf: llama.cpp would read texts in other tokens than the model's tokenizer: {why}; "
        "export --to safetensors16 and let its converter decide"
    )
