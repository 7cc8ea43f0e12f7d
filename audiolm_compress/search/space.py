"""The configurations that a recipe with choices describes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

from audiolm_compress.errors import RecipeError
from audiolm_compress.recipe import Recipe, checked_recipe, read_entries, recipe_schema
from audiolm_compress.recipe_choices import Choice, Complaint, decided, find_choices, take_switches
from audiolm_compress.recipe_errors import listed, statements
from audiolm_compress.recipe_source import Source
from audiolm_compress.recipe_steps import with_baseline

Configuration = tuple[int, ...]  # the number of the option taken of each choice
_MOST_LISTED = 100_000


@dataclass(frozen=True)
class Space:
    """A recipe and its choices; every configuration is one option of each.

    Attributes:
        source: the recipe's entries, choices among them.
        choices: in the order of writing.
        baseline: in place of the recipe's.
    """

    source: Source
    choices: tuple[Choice, ...]
    baseline: str | Path | None = None

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str], baseline: str | Path | None) -> Space:
        """Read a recipe with choices and check every option where it stands.

        The first options together must be a possible recipe. Others that are impossible only beside each
        other are left for the search to find.

        Raises:
            RecipeError: all errors of the recipe with its first options at once, else those of all further
                options; or nothing is left open.
        """
        source = read_entries(path, overrides)
        choices = tuple(find_choices(source)[0])
        space = cls(source, choices, baseline)
        usual = {choice: choice.options[0] for choice in choices}
        checked_recipe(decided(source, usual))
        wrong = [
            line
            for choice in choices
            for option in choice.options[1:]
            for line in _wrong_by_itself(decided(source, usual | {choice: option}), choice)
        ]
        if wrong:
            raise RecipeError(listed(source, wrong))
        if not choices:
            raise RecipeError(
                f"{source.label}: nothing is left open, so there is nothing to search; write "
                "{choose: [...]} in the place of a value, or use `audiolm-compress run`"
            )
        return space

    @property
    def size(self) -> int:
        """Number of configurations."""
        return math.prod(len(choice.options) for choice in self.choices)

    def picked(self, configuration: Configuration) -> dict[str, Any]:
        """Key path -> option."""
        return {
            choice.name: choice.options[index]
            for choice, index in zip(self.choices, configuration, strict=True)
        }

    def recipe(self, configuration: Configuration) -> Recipe:
        """The recipe with everything decided.

        Raises:
            RecipeError: these options cannot stand beside each other.
        """
        options = {
            choice: choice.options[index] for choice, index in zip(self.choices, configuration, strict=True)
        }
        return with_baseline(checked_recipe(decided(self.source, options)), self.baseline)

    def untried(self, tried: set[Configuration], seed: int) -> Configuration:
        """A configuration that is not among ``tried``, which must not be all of them; each is as likely."""
        chance = Random(seed)
        if self.size <= _MOST_LISTED:
            every = product(*(range(len(choice.options)) for choice in self.choices))
            return chance.choice([one for one in every if one not in tried])
        while True:
            drawn = tuple(chance.randrange(len(choice.options)) for choice in self.choices)
            if drawn not in tried:
                return drawn

    def entries(self) -> Mapping[str, Any]:
        """What makes two studies the same: all entries but those that only judge and present trials."""
        left_out = ("goals", "description", "name")
        kept = {key: value for key, value in self.source.content.items() if key not in left_out}
        search = {key: value for key, value in (kept.pop("search", None) or {}).items() if key != "trials"}
        baseline = {} if self.baseline is None else {"baseline": str(self.baseline)}
        return kept | {"search": search} | baseline


def _wrong_by_itself(source: Source, choice: Choice) -> list[Complaint]:
    """What is wrong at the place of a choice with one of its options."""
    take_switches(source)
    schema = recipe_schema(source)
    try:
        schema.model_validate(source.content, context=source.context)
    except ValidationError as error:
        found = error.errors()
    else:
        found = []
    lines = statements(source, schema, found)
    return [(path, line) for path, line in lines if path[: len(choice.path)] == choice.path]
