"""The subwords of a tokenizer: how each is built from others, and the tokenizer of fewer of them.

A text whose tokens are all kept has the same tokens afterwards. Why, for the two kinds that are supported:

**BPE** starts from characters (those that are no subword become byte subwords or the unknown one) and
applies, again and again, the merge of lowest rank, the leftmost first. No merge crosses the borders of a
token of the result, so what happens inside one is what happens to that token's own characters alone: every
token has one path of intermediate subwords, whatever the text (``_path``). The set of kept subwords is closed
under these paths (``with_parts``), and a merge is kept if its parts and its result are. So every merge that
was applied to such a text is still there, in the same order among those kept, and as merges were only
removed, the one of lowest rank is the same one at every step. With ``ignore_merges`` a word that is a
subword is taken whole: it is one before if and only if it is one afterwards.

**Unigram** takes the segmentation of the highest sum of scores. Removing subwords removes competitors, and
the best segmentation is still there. One competitor is new: a character that is no subword any more may be
read as unknown. It scores the lowest score of all minus ten, so less than the subword it stands for did, as
long as the lowest score stays what it was; the subword that has it is therefore always kept.

Normaliser, splitting into words, added tokens and decoder do not depend on the vocabulary and stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from audiolm_compress.errors import PassError

METASPACE = "▁"  # what SentencePiece writes for a space; decoders turn it back, its bytes they do not
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def merge(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> Iterator[tuple[int, str]]:
    """Apply to ``symbols``, in place, merge after merge as BPE does; of each its rank and what it made."""
    while possible := [(ranks[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in ranks]:
        rank, place = min(possible)
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        yield rank, symbols[place]


class Subwords:
    """The vocabulary of a fast tokenizer.

    Attributes:
        backend: the tokenizer.
        tokens: id -> subword or added token.

    Raises:
        PassError: a kind of tokenizer for which it cannot be promised that kept texts keep their tokens.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self.backend = backend
        self._content: dict[str, Any] = json.loads(backend.to_str())
        self._model: dict[str, Any] = self._content["model"]
        self.tokens = {number: token for token, number in backend.get_vocab(with_added_tokens=True).items()}
        self._check()
        vocab = self._model["vocab"]
        self._ids: dict[str, int] = (
            {piece: index for index, (piece, _) in enumerate(vocab)} if self._unigram else vocab
        )
        self._added = {entry["id"] for entry in self._content["added_tokens"]}
        merges = () if self._unigram else self._model["merges"]
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}

    @property
    def _unigram(self) -> bool:
        return bool(self._model["type"] == "Unigram")

    def _check(self) -> None:
        kind = self._model["type"]
        if kind not in ("BPE", "Unigram"):
            raise PassError(
                f"vocab_trim: the tokenizer is of kind {kind}, where a removed word can change how others "
                "are split; only BPE and Unigram tokenizers can be trimmed"
            )
        for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self._model.get(option):
                raise PassError(
                    f"vocab_trim: the tokenizer has {option}={self._model[option]!r}, with which its merges "
                    "cannot be followed; leave this pass out"
                )
        if not self._unigram and any(part in BYTES for merge in self._model["merges"] for part in merge):
            raise PassError(
                "vocab_trim: the tokenizer merges byte tokens, which cannot be followed; leave this pass out"
            )

    def required(self) -> set[int]:
        """Ids without which some text could not be written, or a part of the tokenizer would be missing.

        Added tokens, the unknown token, what the post-processor puts around texts; byte tokens where they
        spell unknown characters, else all single characters (of a byte-level tokenizer: its alphabet).
        ASCII characters always: bytes could spell them too, but no model has ever read them so.
        """
        kept = self._added | self._around()
        spelled = bool(self._model.get("byte_fallback")) and all(byte in self._ids for byte in BYTES)
        for token, number in self._ids.items():
            if len(token) == 1 and (not spelled or token.isascii() or token == METASPACE):
                kept.add(number)
        if self._model.get("byte_fallback"):
            kept |= {self._ids[byte] for byte in BYTES if byte in self._ids}
        if self._unigram:
            scores = [score for _, score in self._model["vocab"]]
            kept.add(scores.index(min(scores)))
            if self._model["unk_id"] is not None:
                kept.add(self._model["unk_id"])
        elif self._model["unk_token"] is not None:
            kept.add(self._ids[self._model["unk_token"]])
        return kept

    def with_parts(self, number: int) -> set[int]:
        """``number`` and the ids of all subwords that it is built from, down to characters."""
        return {number} | {self._ids[part] for part in self._path(number) or ()}

    def is_reachable(self, number: int) -> bool:
        """Whether any text can have this token."""
        return self._path(number) is not None

    def _path(self, number: int) -> set[str] | None:
        """The subwords that BPE goes through on its way to a token; None if it never gets there.

        Empty for tokens that need no way: those of Unigram, added ones, and words that are taken whole.
        """
        token = self.tokens.get(number)
        if self._unigram or token not in self._ids:
            return set()
        symbols = [character for character in token if character in self._ids]
        path = set(symbols)
        if "".join(symbols) == token:
            path |= {made for _, made in merge(symbols, self._ranks)}
            if len(symbols) == 1:
                return path
        # Not the merges lead here, but looking a word up, spelling a character or cutting out an added token.
        taken_whole = self._model.get("ignore_merges") or token in BYTES or number in self._added
        return set() if taken_whole else None

    def order(self, kept: Iterable[int]) -> list[int]:
        """``kept`` in the order of their new ids: the model's own subwords, added tokens, rows without token.

        Each in the order they had. The tokenizers library numbers them like this when it reads a tokenizer.
        """
        own = set(self._ids.values())
        return sorted(kept, key=lambda number: (number not in own, number not in self.tokens, number))

    def trim(self, order: Iterable[int]) -> Tokenizer:
        """The tokenizer whose i-th token is the i-th of ``order``, which must have all that is required.

        Raises:
            PassError: the tokenizers library gives a token another id than it was told.
        """
        numbers = {number: index for index, number in enumerate(order) if number in self.tokens}
        content = self._content | {"model": dict(self._model)}
        if self._unigram:
            kept = sorted(numbers.keys() & self._ids.values(), key=numbers.__getitem__)
            content["model"]["vocab"] = [self._model["vocab"][number] for number in kept]
            if self._model["unk_id"] is not None:
                content["model"]["unk_id"] = numbers[self._model["unk_id"]]
        else:
            ids = {token: numbers[number] for token, number in self._ids.items() if number in numbers}
            content["model"]["vocab"] = ids
            content["model"]["merges"] = [
                [left, right]
                for left, right in self._model["merges"]
                if left in ids and right in ids and left + right in ids
            ]
        content["added_tokens"] = [
            entry | {"id": numbers[entry["id"]]} for entry in self._content["added_tokens"]
        ]
        content["post_processor"] = _renumbered(self._content["post_processor"], numbers.__getitem__)
        if content["padding"]:
            old = content["padding"]["pad_id"]
            content["padding"] = content["padding"] | {"pad_id": numbers.get(old, old)}
        trimmed = Tokenizer.from_str(json.dumps(content))
        trimmed.encode_special_tokens = self.backend.encode_special_tokens
        wrong = [
            token
            for number, index in numbers.items()
            if trimmed.token_to_id(token := self.tokens[number]) != index
        ]
        if wrong:
            raise PassError(
                f"vocab_trim: {len(wrong)} tokens, such as {wrong[0]!r}, get other ids than planned when the "
                "tokenizer is read again; its added tokens have gaps between their ids"
            )
        return trimmed

    def _around(self) -> set[int]:
        """Ids that the post-processor and the padding put around texts."""
        found: set[int] = set()

        def note(number: int) -> int:
            found.add(number)
            return number

        _renumbered(self._content["post_processor"], note)
        if self._content["padding"]:
            found.add(self._content["padding"]["pad_id"])
        return found & self.tokens.keys()


def _renumbered(processor: Any, new: Callable[[int], int]) -> Any:
    """A post-processor's description with the ids that ``new`` gives for the old ones."""
    if not processor:
        return processor
    if processor["type"] == "Sequence":
        return processor | {"processors": [_renumbered(inner, new) for inner in processor["processors"]]}
    if processor["type"] == "TemplateProcessing":
        special = {
            name: token | {"ids": [new(number) for number in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
        return processor | {"special_tokens": special}
    if processor["type"] in ("BertProcessing", "RobertaProcessing"):
        return processor | {key: [processor[key][0], new(processor[key][1])] for key in ("sep", "cls")}
    return processor
