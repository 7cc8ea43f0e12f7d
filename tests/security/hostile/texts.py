"""YAML and prompts."""

from __future__ import annotations

from pathlib import Path

from audiolm_compress.recipe import load_recipe
from audiolm_compress.salmonn.load import load_model

from ..conftest import Clean
from .kinds import hostile, touching

LAUGHS = "\n".join(
    [
        "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)),
    ]
)


@hostile(load_model, r"config\.yaml cannot be read: could not determine a constructor for the tag")
def upstream_config_with_a_python_object(clean: Clean) -> Path:
    config = clean.upstream()
    config.write_text(f'model: !!python/object/apply:eval ["{touching(clean)}"]\n')
    return config


@hostile(load_model, r"config\.yaml cannot be read: its aliases stand for more than")
def upstream_config_of_a_billion_laughs(clean: Clean) -> Path:
    config = clean.upstream()
    config.write_text(config.read_text() + LAUGHS)
    return config


@hostile(load_model, r"test_prompt\.json: the prompts of task 'asr' must be texts")
def prompts_of_another_form(clean: Clean) -> Path:
    config = clean.upstream()
    (config.parent / "prompts" / "test_prompt.json").write_text('{"asr": 5}')
    return config


@hostile(load_model, r"/dev/zero cannot be read: is no regular file")
def device_as_prompts(clean: Clean) -> Path:
    config = clean.upstream()
    config.write_text(config.read_text().replace("prompts/train_prompt.json", "/dev/zero"))
    return config


def recipe(clean: Clean, text: str) -> Path:
    file = clean.place / "recipe.yaml"
    file.write_text(text)
    return file


@hostile(load_recipe, r"recipe\.yaml: not YAML: .*could not determine a constructor for the tag")
def recipe_with_a_python_object(clean: Clean) -> Path:
    return recipe(clean, f'passes: !!python/object/apply:eval ["{touching(clean)}"]\n')


@hostile(load_recipe, r"recipe\.yaml: not YAML: its aliases stand for more than")
def recipe_of_a_billion_laughs(clean: Clean) -> Path:
    return recipe(clean, LAUGHS)


@hostile(load_recipe, r"recipe\.yaml: not YAML: nested deeper than")
def recipe_nested_without_end(clean: Clean) -> Path:
    return recipe(clean, "[" * 100_000)


@hostile(load_recipe, r"recipe\.yaml: cannot read the recipe: has \d+ bytes")
def recipe_of_many_megabytes(clean: Clean) -> Path:
    return recipe(clean, "passes:\n" + "- {pass: merge_lora}\n" * 100_000)


@hostile(load_recipe, r"recipe\.yaml[\s\S]*name")
def recipe_named_into_another_folder(clean: Clean) -> Path:
    return recipe(clean, "name: ../../elsewhere\npasses: [{pass: merge_lora}]\n")


@hostile(load_recipe, r"recipe\.yaml[\s\S]*no such file: /dev/zero")
def recipe_with_a_device_as_annotation(clean: Clean) -> Path:
    return recipe(clean, "data: {calibration: /dev/zero}\npasses: [{pass: merge_lora}]\n")
