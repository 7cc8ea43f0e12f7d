"""``audiolm-compress passes``: what a recipe can name, generated from the passes' own descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from audiolm_compress.passes.base import Pass

EXAMPLES = """\b
Examples:
  audiolm-compress passes
  audiolm-compress passes gptq
"""


@click.command(epilog=EXAMPLES)
@click.argument("names", nargs=-1)
def passes(names: tuple[str, ...]) -> None:
    """List the passes and their settings; NAMES choose some."""
    from audiolm_compress.passes import PASSES

    known = {model.model_fields["kind"].default: model for model in PASSES}
    for name in names:
        if name not in known:
            raise click.BadParameter(f"unknown pass {name!r}; passes: {', '.join(known)}", param_hint="NAMES")
    for name in names or known:
        click.echo(describe(known[name]))


def describe(model: type[Pass]) -> str:
    """Name, first paragraph and fields of a pass."""
    from inspect import cleandoc

    summary = " ".join(cleandoc(model.__doc__ or "").split("\n\n")[0].split())
    lines = [f"{model.model_fields['kind'].default}: {summary}"]
    schema = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        key = field.alias or name
        default = "required" if field.is_required() else f"default {schema[key].get('default')!r}"
        lines.append(f"  {key} ({_type(schema[key])}; {default})")
        if field.description:
            lines.append(f"      {field.description}")
    return "\n".join(lines) + "\n"


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema's type in few words."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_type(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("const", schema.get("type", "mapping")))
