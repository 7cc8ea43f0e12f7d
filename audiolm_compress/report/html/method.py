"""How it was measured, on what, and how to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.markup import Markup, bullets, element, fold, joined, table
from audiolm_compress.report.html.steps import in_words
from audiolm_compress.report.html.verdict import plain_name


def method(content: Content) -> Markup:
    """The command, the machine, every remark, decode settings, packages and bad files."""
    flat = {name: value for name, value in content.environment.items() if not isinstance(value, Mapping)}
    nested = {
        name: value for name, value in content.environment.items() if isinstance(value, Mapping) and value
    }
    again = element("pre", element("code", content.command), tabindex=0, role="region", aria_label="Command")
    return joined(
        [
            element("div", element("h3", "Do it again"), again, class_="panel"),
            element("div", element("h3", "Environment"), _pairs(flat), class_="panel"),
            element("div", element("h3", "Remarks"), bullets(content.notes), class_="panel")
            if content.notes
            else "",
            *(fold(plain_name(name).capitalize(), _pairs(value)) for name, value in nested.items()),
            *_decode(content),
            *_skipped(content),
        ]
    )


def _pairs(values: Mapping[str, Any]) -> Markup:
    items = [
        joined([element("dt", plain_name(name)), element("dd", in_words(value))])
        for name, value in values.items()
    ]
    return element("dl", *items)


def _decode(content: Content) -> list[Markup]:
    found = [
        (f"{name}, {task}", settings)
        for name, side in content.sides.items()
        for task, settings in side.decode.items()
    ]
    if not found:
        return []
    columns = list(dict.fromkeys(key for _, settings in found for key in settings))
    body = [[who, *(in_words(settings.get(key, "")) for key in columns)] for who, settings in found]
    shown = table(["model and task", *map(plain_name, columns)], body, label="Decode settings")
    return [fold("Decode settings", shown)]


def _skipped(content: Content) -> list[Markup]:
    found = list(dict.fromkeys(bad for side in content.sides.values() for bad in side.skipped))
    if not found:
        return []
    shown = table(["file", "reason"], found, label="Files left out", numbers=2)
    return [fold(f"Files left out ({len(found)})", shown)]
