"""Errors that a user can act on: each says what was asked, what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The question that ends a message about an unknown word; empty: nothing known is near."""
    close = get_close_matches(word, [*known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class AudioLMError(Exception):
    """Base of all errors that come from the user's input; the command line turns it into exit code 2."""


class RecipeError(AudioLMError):
    """A recipe cannot be read, or one of its entries is impossible."""


class BaselineError(AudioLMError):
    """A checkpoint cannot be loaded: wrong layout, missing, unknown or wrongly shaped tensors."""


class DataError(AudioLMError):
    """An annotation or an audio file cannot be used."""


class PassError(AudioLMError):
    """A pass cannot be applied to this model with these settings."""


class MachineError(AudioLMError):
    """The machine lacks memory, room on a disk, a file that was there, or the right to write."""
