"""Where a run may write: not over what it did not make, and not over what it is made from."""

from __future__ import annotations

from pathlib import Path

from audiolm_compress.errors import AudioLMError, RecipeError
from audiolm_compress.folders import check_replaceable
from audiolm_compress.recipe import Recipe
from audiolm_compress.recipe_source import Source
from audiolm_compress.salmonn import store

_RECIPE = "recipe.yaml"  # of the result, see ``report.files``


def check_output(target: Path, recipe: Recipe, replace: bool) -> None:
    """Refuse to write the result of ``recipe`` to ``target``, if that would cost something.

    A former result of a recipe of the same name is replaced, whatever its settings were.

    Args:
        target: may be there.
        recipe: of the run.
        replace: any model folder may be replaced, except for the baseline.

    Raises:
        AudioLMError: ``target`` is the baseline, the result of another recipe, a model that no recipe made,
            or no model folder at all.
    """
    check_replaceable(target, store.is_model_folder)
    if not store.is_model_folder(target):
        return  # not there, or empty
    if target.resolve() == Path(recipe.baseline).resolve():
        raise AudioLMError(f"output {target} is the baseline itself; name another folder")
    name = _recipe_name(target)
    if replace or name == recipe.name:
        return
    holds = "a model that no recipe made" if name is None else f"the result of the recipe {name!r}"
    raise AudioLMError(
        f"output {target} holds {holds}, this one is {recipe.name!r}; name another folder, or say --replace"
    )


def _recipe_name(folder: Path) -> str | None:
    """Of the recipe that made a result; None if there is none that can be read."""
    try:
        return str(Source.of_file(folder / _RECIPE).content["name"])
    except RecipeError:
        return None
