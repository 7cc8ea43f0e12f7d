"""Going through a recipe: whose baseline it takes, and at which pass something went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiolm_compress.errors import AudioLMError, MachineError, PassError
from audiolm_compress.faults import explained
from audiolm_compress.recipe import Recipe
from audiolm_compress.settings import at_home


def with_baseline(recipe: Recipe, baseline: str | Path | None) -> Recipe:
    """The recipe for another baseline; unlike its own, a path given here starts at the working directory."""
    if baseline is None:
        return recipe
    path = at_home(str(baseline))
    source = str(path.resolve()) if str(baseline) != "tiny" and path.exists() else str(baseline)
    return recipe.model_copy(update={"baseline": source})


@contextmanager
def at_pass(recipe: Recipe, position: int) -> Iterator[None]:
    """Inside, an error becomes a ``PassError`` that says the position (from 1) and what was done before.

    One by which the machine lacked something becomes a ``MachineError`` that says the same.
    """
    former = ", ".join(entry.kind for entry in recipe.passes[: position - 1]) or "nothing"
    where = f"pass {position} of {len(recipe.passes)} (after {former})"
    try:
        with explained():
            yield
    except MachineError as error:
        raise MachineError(f"{where}: {recipe.passes[position - 1].kind}: {error}") from error
    except AudioLMError as error:
        raise PassError(f"{where}: {error}") from error
