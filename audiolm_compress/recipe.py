"""A recipe: which model, which data, which passes in which order, and what must hold at the end.

    baseline: tiny
    data: {calibration: tiny, test: tiny}
    passes:
      - pass: merge_lora
      - {pass: gptq, bits: 4, group_size: 32}
    goals: {weight_ratio: 0.55}

A recipe only describes; :func:`audiolm_compress.pipeline.apply_recipe` acts on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, create_model

from audiolm_compress.errors import RecipeError
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.passes import PASSES, AnyPass
from audiolm_compress.passes.base import Pass
from audiolm_compress.passes.installed import installed_pass
from audiolm_compress.recipe_choices import decided, find_choices, take_switches, undecided
from audiolm_compress.recipe_errors import explain, written_path
from audiolm_compress.recipe_sections import DataSettings, Goals, SearchSettings
from audiolm_compress.recipe_source import Source
from audiolm_compress.settings import Settings, resolve


def _model_source(value: str, info: ValidationInfo) -> str:
    path = resolve(value, info)
    if value == "tiny" or not value:
        return value
    if path.exists():
        return str(path)
    if value.startswith((".", "/", "~")) or path.suffix in {".yaml", ".yml", ".pth", ".pt"}:
        raise ValueError(f"no such file or folder: {path}")
    return value  # a hub id


ModelSource = Annotated[str, Field(min_length=1), AfterValidator(_model_source)]
Checked = TypeVar("Checked", bound=Settings)


class Recipe(Settings):
    """One way from a baseline to a smaller model."""

    name: str = Field(
        "recipe", pattern=r"^\w[\w.-]*$", description="names the output folder; unset: the file's name"
    )
    description: str = Field("", description="one sentence for the report")
    baseline: ModelSource = Field(
        "tiny", description="`tiny`, an upstream YAML config, a folder that this package saved, or a hub id"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="source of all randomness")
    data: DataSettings = Field(DataSettings(), description="calibration, training and test clips")
    passes: tuple[AnyPass, ...] = Field(min_length=1, description="what is done, in this order")
    benchmark: BenchmarkSettings = Field(BenchmarkSettings(), description="how both are measured")
    goals: Goals = Field(Goals(), description="what the candidate must reach")
    search: SearchSettings = Field(SearchSettings(), description="what a search over choices looks for")

    def to_yaml(self) -> str:
        """The recipe with every default written out; it reads back as an equal recipe."""
        content = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    extra_passes: Sequence[type[Pass]] = (),
) -> Recipe:
    """Read a recipe and check it completely.

    Args:
        source: a YAML file, the same content as a mapping, or a recipe (to override entries of it).
        overrides: ``key.path=VALUE``, such as ``passes.1.bits=3``; VALUE is read as YAML.
        extra_passes: further subclasses of :class:`Pass` that the recipe may name, besides those of installed
            packages (`passes/installed.py`).

    Relative paths start at the recipe file's folder; those of a mapping and of overrides at the working
    directory.

    Raises:
        RecipeError: all errors at once, each with its place, what was found and what is allowed; values that
            the recipe leaves open (`recipe_choices.py`) are among them.
    """
    if isinstance(source, Recipe):
        if not overrides:
            return source
        extra_passes = (*extra_passes, *dict.fromkeys(type(entry) for entry in source.passes))
        source = source.model_dump(mode="json", by_alias=True)
    entries = read_entries(source, overrides)
    choices, _ = find_choices(entries)
    usual = decided(entries, {choice: choice.options[0] for choice in choices})
    usual.complaints += [undecided(choice) for choice in choices]
    return checked_recipe(usual, extra_passes)


def read_entries(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Source:
    """The entries of a recipe, not yet checked, with what is wrong with its choices among the complaints.

    Raises:
        RecipeError: the file cannot be read, or an override cannot be applied.
    """
    entries = Source.of_mapping(source) if isinstance(source, Mapping) else Source.of_file(Path(source))
    for override in overrides:
        entries.set(override)
    entries.complaints += find_choices(entries)[1]
    return entries


def checked_recipe(entries: Source, extra_passes: Sequence[type[Pass]] = ()) -> Recipe:
    """The recipe that ``entries`` without choices are; passes that are switched off are checked and left out.

    Args:
        entries: of the recipe.
        extra_passes: as ``load_recipe``.

    Raises:
        RecipeError: all errors at once.
    """
    entries = decided(entries, {})
    on = take_switches(entries)
    recipe = checked(recipe_schema(entries, extra_passes), entries)
    if not any(on):
        raise RecipeError(f"{entries.label}: every pass is switched off; leave one on")
    return recipe.model_copy(
        update={"passes": tuple(entry for entry, kept in zip(recipe.passes, on, strict=True) if kept)}
    )


def data_settings(**entries: Any) -> DataSettings:
    """The ``data`` section of a recipe on its own; relative paths start at the working directory.

    Raises:
        RecipeError: all errors at once.
    """
    return checked(DataSettings, Source("data", Path.cwd(), entries))


def checked(schema: type[Checked], entries: Source) -> Checked:
    """Entries of a recipe, or of what is written like one.

    Raises:
        RecipeError: all errors at once.
    """
    try:
        found = schema.model_validate(entries.content, context=entries.context)
    except ValidationError as error:
        # a list counts as too short also where its entries are wrong: those are reported already
        errors = [e for e in error.errors() if e["type"] != "too_short" or not e["input"]]
        malformed = [path for path, _ in find_choices(entries)[1]]  # complained about already
        errors = [
            e
            for e in errors
            if not any(written_path(entries.content, e)[: len(path)] == path for path in malformed)
        ]
        raise RecipeError(explain(entries, schema, errors)) from None
    if entries.complaints:
        raise RecipeError(explain(entries, schema, []))
    return found


def recipe_schema(entries: Source, extra_passes: Sequence[type[Pass]] = ()) -> type[Recipe]:
    """What ``entries`` are checked against: ``Recipe``, and the passes from outside that they may name.

    Raises:
        RecipeError: a pass of an installed package is named that cannot be used.
    """
    known = dict.fromkeys((*PASSES, *extra_passes))
    own = {model.model_fields["kind"].default for model in known}
    items = entries.content.get("passes")
    named = [item.get("pass") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    asked = dict.fromkeys(name for name in named if isinstance(name, str) and name not in own)
    known |= dict.fromkeys(model for name in asked if (model := installed_pass(name)))
    if len(known) == len(PASSES):
        return Recipe
    union: Any = Annotated[Union[(*known,)], Field(discriminator="kind")]
    return create_model("Recipe", __base__=Recipe, passes=(tuple[union, ...], Recipe.model_fields["passes"]))
