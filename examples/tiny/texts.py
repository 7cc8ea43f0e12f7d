"""English sentences for synthetic speech: telephone prompts, recombined prompts and free text.

    python examples/tiny/texts.py --corpus CORPUS_DIR --exclude test.json valid.json --count 1000

One half comes from a grammar of telephone English (`grammar.py`) and from the prompts of the training split,
taken apart and put together again; the other half is free text: the example sentences and short definitions
of WordNet (Debian package `wordnet-base`, WordNet licence, free for any use with its notice).

Sentences are lower case: letters, apostrophes and spaces, numbers in words. They have 2 to 14 words, one in
twenty up to 24. A sentence that equals or nearly equals a held-out one, or contains it whole, is never given
(`HeldOut`).
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from grammar import DIGITS, RULES, expand

SIMILAR = 0.88  # the corpus treats prompts as one group from this edit similarity on
MAX_WORDS, MAX_JOINED_WORDS = 14, 24
_ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"


def read_texts(annotation: Path) -> list[str]:
    """The `text` of every entry of an annotation JSON."""
    entries = json.loads(annotation.read_text(encoding="utf-8"))["annotation"]
    return [entry["text"] for entry in entries]


def edit_similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance / length of the longer string."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return 1.0 - row[-1] / max(len(a), len(b), 1)


def _letter_counts(text: str) -> np.ndarray:
    return np.array([text.count(letter) for letter in _ALPHABET])


class HeldOut:
    """Held-out texts; `text in held_out` tells whether a sentence gives one of them away.

    True for equal or nearly equal sentences (difflib ratio or edit similarity >= 0.88) and for those that
    contain a held-out text of three words or more.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(set(texts))
        self._counts = np.array([_letter_counts(text) for text in self._texts]).reshape(len(self._texts), -1)
        self._lengths = np.array([len(text) for text in self._texts])

    def __contains__(self, text: str) -> bool:
        spaced = f" {text} "
        if any(f" {held} " in spaced for held in self._texts if held.count(" ") >= 2):
            return True
        # No alignment matches more letters than the two share, which bounds both similarities from above.
        shared = np.minimum(self._counts, _letter_counts(text)).sum(1)
        close = np.flatnonzero(2 * shared >= SIMILAR * (self._lengths + len(text)))
        return any(_similar(text, self._texts[i]) for i in close)


def _similar(a: str, b: str) -> bool:
    ratios = (difflib.SequenceMatcher(None, *pair, autojunk=False).ratio() for pair in ((a, b), (b, a)))
    return a == b or max(ratios) >= SIMILAR or edit_similarity(a, b) >= SIMILAR


def free_sentences(wordnet: Path) -> list[str]:
    """Example sentences and short definitions from WordNet's `data.*` files, in file order.

    Texts with digits, abbreviations or other signs that speech does not show are left out, as are the entries
    that WordNet marks as offensive.
    """
    sentences: dict[str, None] = {}
    for name in ("noun", "verb", "adj", "adv"):
        for line in (wordnet / f"data.{name}").read_text(encoding="ascii").splitlines():
            _, _, gloss = line.partition(" | ")
            if re.search(r"slur|offensive|obscene|vulgar|disparaging", gloss):
                continue
            examples = re.findall(r'"([^"]+)"', gloss)
            definition = re.sub(r"\([^)]*\)", " ", gloss.split(";")[0].split('"')[0])
            for text in (*examples, definition):
                text = text.strip().rstrip(".!?").replace(",", "").lower()
                if re.fullmatch(r"[a-z][a-z' ]*[a-z]", text) and 3 <= len(text.split()) <= MAX_WORDS:
                    sentences[" ".join(text.split())] = None
    return list(sentences)


def _swap(prompt: str, rng: random.Random) -> str:
    """`prompt` with some of its numbers, nouns, states and verbs exchanged for others of their kind."""
    kinds = (
        DIGITS,
        *(RULES[name] for name in ("person", "people", "thing", "things", "do_msg", "done", "age")),
    )
    words = prompt.split()
    for i, word in enumerate(words):
        kind = next((kind for kind in kinds if word in kind), None)
        if kind and rng.random() < 0.6:
            words[i] = expand("digit", rng) if kind is DIGITS else rng.choice(kind)
    return " ".join(words)


def _splice(prompts: list[str], rng: random.Random) -> str:
    """The beginning of one prompt and the end of another."""
    first, second = (rng.choice(prompts).split() for _ in range(2))
    head, tail = rng.randint(1, min(7, len(first))), rng.randint(1, min(7, len(second)))
    return " ".join(first[:head] + second[-tail:])


def _excerpt(prompts: list[str], rng: random.Random) -> str:
    """A run of words from one prompt."""
    words = rng.choice(prompts).split()
    start = rng.randint(0, max(0, len(words) - 3))
    return " ".join(words[start : start + rng.randint(2, MAX_WORDS)])


def _candidates(prompts: list[str], free: list[str], rng: random.Random) -> Iterator[str]:
    shuffled = rng.sample(free, len(free))
    while True:
        kind = rng.random()
        if kind < 0.5 and shuffled:
            yield shuffled.pop()
        elif kind < 0.77:
            yield expand("spoken", rng)
        elif kind < 0.84:
            yield _splice(prompts, rng)
        elif kind < 0.92:
            yield _swap(rng.choice(prompts), rng)
        elif kind < 0.95:
            yield _excerpt(prompts, rng)
        else:
            parts = (expand("spoken", rng), _swap(rng.choice(prompts), rng))
            yield " ".join(rng.sample(parts, 2))


def generate(count: int, *, seed: int, prompts: list[str], free: list[str], held_out: HeldOut) -> list[str]:
    """`count` different sentences in random order, the same for the same arguments."""
    rng = random.Random(seed)
    made: dict[str, None] = {}
    for text in _candidates(prompts, free, rng):
        longest = MAX_JOINED_WORDS if len(made) % 20 == 0 else MAX_WORDS
        if text not in made and 2 <= len(text.split()) <= longest and text not in held_out:
            made[text] = None
            if len(made) >= count:
                break
    return list(made)


def main() -> None:
    """Prints the sentences, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with asr_train.json")
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="annotation files never to come near"
    )
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun"
    )
    parser.add_argument("--count", type=int, default=30000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    held_out = HeldOut(text for file in args.exclude for text in read_texts(file))
    prompts = [text for text in read_texts(args.corpus / "asr_train.json") if text not in held_out]
    free = free_sentences(args.wordnet)
    print(*generate(args.count, seed=args.seed, prompts=prompts, free=free, held_out=held_out), sep="\n")


if __name__ == "__main__":
    main()
