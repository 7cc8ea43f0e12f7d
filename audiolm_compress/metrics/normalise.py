"""Texts made comparable before they are scored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

# The tokenisation rules of NIST's mteval-v13a, which BLEU's 13a tokenizer and the upstream evaluation follow.
_TOKEN_RULES = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),  # ASCII symbols other than ' , - . stand alone
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # period and comma too, unless between digits
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # and the dash after a digit
)
_NO_WORD = re.compile(r"[^\w\s']|_")


@cache
def _whisper_normaliser() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def whisper_english(text: str) -> str:
    """Whisper's English normaliser (arXiv:2212.04356, appendix C): numbers, spelling, fillers."""
    return _whisper_normaliser()(text)


def words_13a(text: str) -> list[str]:
    """Lower-case words after 13a tokenisation; tokens of punctuation alone are left out.

    >>> words_13a("It cost $3.50, really!")
    ['it', 'cost', '$', '3.50', 'really']
    """
    text = f" {text} "
    for pattern, replacement in _TOKEN_RULES:
        text = pattern.sub(replacement, text)
    return [token for token in text.lower().split() if not _is_punctuation(token)]


def _is_punctuation(token: str) -> bool:
    return all(unicodedata.category(character)[0] == "P" for character in token)


def caption(text: str) -> str:
    """A caption in lower case without punctuation, its words separated by single spaces.

    CIDEr-D counts n-grams of words, so "Rain." must equal "rain". The usual tool for that is the Penn
    Treebank tokenizer, which needs Java; this plain form does the same to ordinary captions, except that it
    leaves ``man's`` one word.

    >>> caption("A man's dog barks; rain falls - heavily.")
    "a man's dog barks rain falls heavily"
    """
    return " ".join(_NO_WORD.sub(" ", text.lower().replace("\u2019", "'")).split())
