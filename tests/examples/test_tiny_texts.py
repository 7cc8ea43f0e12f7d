from __future__ import annotations

import random
import re
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "tiny"
PROMPTS = ["please enter your agent number followed by the pound key", "press one to record your greeting"]


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import texts as module

    for name in ("texts", "grammar"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    return module


@pytest.mark.parametrize(
    ("text", "given_away"),
    [
        ("the conference is locked", True),
        ("the conference is locke", True),
        ("now the conference is locked again and again", True),
        ("thank you very much", False),  # held-out texts of two words may be part of a sentence
        ("the mailbox is full", False),
    ],
)
def test_held_out_texts_are_recognised(texts: ModuleType, text: str, given_away: bool) -> None:
    assert (text in texts.HeldOut(["the conference is locked", "thank you"])) is given_away


def test_edit_similarity_is_levenshtein(texts: ModuleType) -> None:
    assert texts.edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)


def test_sentences_are_clean_distinct_repeatable_and_not_held_out(texts: ModuleType) -> None:
    free = [f"a {a} {b} thing" for a, b in product(("red", "green", "blue"), ("small", "large"))]
    held = texts.HeldOut(["a red small thing", PROMPTS[1]])
    made, again = (texts.generate(400, seed=3, prompts=PROMPTS, free=free, held_out=held) for _ in range(2))
    assert made == again
    assert len(set(made)) == 400
    assert all(re.fullmatch(r"[a-z']+( [a-z']+){1,23}", text) for text in made)
    assert not any(text in held for text in made)


def test_every_name_in_the_grammar_expands(texts: ModuleType) -> None:
    grammar = sys.modules["grammar"]
    names = {
        name for rules in grammar.RULES.values() for rule in rules for name in re.findall(r"\{(\w+)\}", rule)
    }
    for name in sorted(names | set(grammar.RULES)):
        assert "{" not in grammar.expand(name, random.Random(0))
