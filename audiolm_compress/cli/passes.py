"""``audiolm-compress passes``: what a recipe can name, generated from the passes' own descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from audiolm_compress.cli.completion import complete_passes
from audiolm_compress.cli.options import Answering, give, json_option

if TYPE_CHECKING:
    from audiolm_compress.passes.base import Pass

EXAMPLES = """\b
Examples:
  audiolm-compress passes
  audiolm-compress passes gptq
  audiolm-compress passes --json > passes.json
"""
_WIDEST = 100  # columns that a line of prose fills at most
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@click.command(cls=Answering, epilog=EXAMPLES)
@click.argument("names", nargs=-1, shell_complete=complete_passes)
@json_option
def passes(names: tuple[str, ...], json_file: str | None) -> None:
    """List the passes and their settings.

    All built-in passes and those of installed packages, or the ones among NAMES. Of each setting its type,
    bounds and default. With --json: summary and JSON schema of every pass.
    """
    import json

    from audiolm_compress.passes import PASSES
    from audiolm_compress.passes.installed import installed_names, installed_pass

    known = {model.model_fields["kind"].default: model for model in PASSES}
    for name in installed_names():
        if name not in known and (model := installed_pass(name)):
            known[name] = model
    for name in names:
        if name not in known:
            raise click.BadParameter(f"unknown pass {name!r}; passes: {', '.join(known)}", param_hint="NAMES")
    chosen = {name: known[name] for name in names or known}

    def content() -> str:
        found = {
            name: {"summary": summary(model), "schema": model.model_json_schema()}
            for name, model in chosen.items()
        }
        return json.dumps(found, indent=1, ensure_ascii=False) + "\n"

    give(json_file, content, lambda: _show(list(chosen.values())))


def _show(chosen: list[type[Pass]]) -> None:
    """Coloured and wrapped on a terminal; a fact a line elsewhere."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    for model in chosen:
        for indent, name, facts, style in described(model):
            line = Text.assemble((name, "bold cyan" if not indent else "bold"), (facts, style))
            if console.is_terminal:
                console.print(Padding(line, (0, 0, 0, indent)), width=min(console.width, _WIDEST))
            else:
                click.echo(" " * indent + line.plain)
        click.echo()


def summary(model: type[Pass]) -> str:
    """First paragraph of a pass's description."""
    from inspect import cleandoc

    return " ".join(cleandoc(model.__doc__ or "").split("\n\n")[0].split())


def described(model: type[Pass]) -> Iterator[tuple[int, str, str, str]]:
    """Lines of a pass: indentation, what is named, what is said of it, and the style of that."""
    yield 0, model.model_fields["kind"].default, f": {summary(model)}", ""
    schema = model.model_json_schema()
    for name, type_, default, text in settings(schema, schema.get("$defs", {})):
        if name != "pass":
            yield 2, name, f" ({type_}; {default})", "dim"
            yield 6, "", text, ""


def settings(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], within: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    """Key, type with bounds, default and description of every setting; those within a setting after it."""
    for key, field in schema["properties"].items():
        if "default" in field:
            default = (
                "default {...}" if isinstance(field["default"], dict) else f"default {field['default']!r}"
            )
        else:
            default = "required" if key in schema.get("required", ()) else "default null"
        yield f"{within}{key}", type_name(field, definitions), default, field.get("description", "")
        for inner, mark in ((field, ""), (field.get("items", {}), "[]")):
            found = definitions[inner["$ref"].rpartition("/")[2]] if "$ref" in inner else {}
            if "properties" in found:
                yield from settings(found, definitions, f"{within}{key}{mark}.")


def type_name(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema's type and bounds in few words."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(type_name(option, definitions) for option in schema["anyOf"])
    if "$ref" in schema:
        return type_name(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if schema.get("type") == "array":
        return f"list of {type_name(schema.get('items', {}), definitions)}"
    name = {"object": "mapping"}.get(schema.get("type", ""), schema.get("type", "mapping"))
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("const", name)), ", ".join(bounds)]).strip()
