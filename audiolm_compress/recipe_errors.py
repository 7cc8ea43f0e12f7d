"""Turns what pydantic finds wrong into messages for the person who wrote the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from audiolm_compress.errors import did_you_mean
from audiolm_compress.recipe_source import KeyPath, Source, dotted


def explain(source: Source, schema: type[BaseModel], errors: Sequence[Mapping[str, Any]]) -> str:
    """One message with a line for every wrong entry: place, key path, what was found, what is allowed."""
    return listed(source, statements(source, schema, errors))


def statements(
    source: Source, schema: type[BaseModel], errors: Sequence[Mapping[str, Any]]
) -> list[tuple[KeyPath, str]]:
    """Key path of every wrong entry, and what was found and is allowed there."""
    found: dict[tuple[KeyPath, str], list[str]] = {}
    for path, complaint in source.complaints:
        found.setdefault((path, complaint), [])
    for error in errors:
        statement, expected = _message(schema, error)
        # the members of a union complain one by one: gathered, they are what is allowed
        allowed = found.setdefault((written_path(source.content, error), statement), [])
        if expected and expected not in allowed:
            allowed.append(expected)
    return [(path, statement + " or ".join(allowed)) for (path, statement), allowed in found.items()]


def listed(source: Source, statements: Sequence[tuple[KeyPath, str]]) -> str:
    """One message of them, each with its place in the text."""
    lines = [
        f"  {_place(source, path)}{dotted(path)}{': ' if path else ''}{statement}"
        for path, statement in statements
    ]
    count = f"{len(lines)} errors" if len(lines) > 1 else "1 error"
    return "\n".join([f"{source.label}: {count}", *lines])


def _place(source: Source, path: KeyPath) -> str:
    """Of the entry, or of the section that it is missing from."""
    for length in range(len(path), 0, -1):
        if path[:length] in source.places:
            return f"{source.places[path[:length]]}, "
    return ""


def written_path(content: Any, error: Mapping[str, Any]) -> KeyPath:
    """The location without what only pydantic knows of: tags and members of unions."""
    path: list[str | int] = []
    for part in error["loc"]:
        if (isinstance(content, dict) and part in content) or (
            isinstance(content, list | tuple) and isinstance(part, int) and part < len(content)
        ):
            content = content[part]
            path.append(part)
    kind = error["type"]
    if kind == "missing":
        path.append(error["loc"][-1])
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        path.append("pass")
    return tuple(path)


_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}


def _message(schema: type[BaseModel], error: Mapping[str, Any]) -> tuple[str, str]:
    """A statement, and what would have been right where that can be put in words."""
    kind, context, loc = error["type"], error.get("ctx", {}), error["loc"]
    found = f"found {_shown(error['input'])}; expected "
    if kind == "extra_forbidden":
        keys = [key for model in _models_at(schema, loc[:-1]) for key in _keys(model)]
        return f"unknown key{did_you_mean(str(loc[-1]), keys)}{_listing('keys', keys)}", ""
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        passes = [_tag(model) for model in _models_at(schema, loc)]
        if kind == "union_tag_not_found":
            return f"the entry names no pass{_listing('passes', passes)}", ""
        tag = context["tag"]
        return f"unknown pass {tag!r}{did_you_mean(tag, passes)}{_listing('passes', passes)}", ""
    if kind == "missing":
        return "is missing", ""
    if kind == "too_short":
        return f"is empty; give at least {context['min_length']}", ""
    if kind == "value_error":
        return str(context["error"]), ""
    if kind == "literal_error":
        return found, context["expected"]
    if kind in _EXPECTED:
        return found, _EXPECTED[kind]
    return f"found {_shown(error['input'])}; {error['msg'][:1].lower()}{error['msg'][1:]}", ""


def _models_at(schema: type[BaseModel], loc: Iterable[str | int]) -> list[type[BaseModel]]:
    """The settings classes that an entry at ``loc`` could be."""
    models = [schema]
    for part in loc:
        if isinstance(part, int):
            continue
        fields = [
            field
            for model in models
            for name, field in model.model_fields.items()
            if part in (name, field.alias)
        ]
        tagged = [model for model in models if _tag(model) == part]
        models = (
            [model for field in fields for model in _inside(field.annotation)] if fields else tagged or models
        )
    return models


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)


def _tag(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("kind")
    return field.default if field else None


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _listing(what: str, names: Sequence[str]) -> str:
    return f" ({what}: {', '.join(names)})" if names else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
