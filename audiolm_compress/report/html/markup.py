"""HTML and SVG as nested calls: what is markup says so by its type, everything else is text and is escaped.

>>> element("p", "a < b & ", element("b", "c"), class_="note")
'<p class="note">a &lt; b &amp; <b>c</b></p>'
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

_VOID = frozenset({"br", "input", "meta"})
# What no HTML document may hold: control characters other than tab and newline, halves of surrogate pairs.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already; made by this module alone."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """``value`` as it is shown, usable in elements and in quoted attributes."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_FORBIDDEN.sub("\ufffd", str(value)), quote=True))


def joined(parts: Iterable[object], separator: str = "") -> Markup:
    """All parts after each other, those that are no markup escaped."""
    return Markup(separator.join(escaped(part) for part in parts))


def element(name: str, /, *children: object, **attributes: Any) -> Markup:
    """One element.

    Args:
        name: such as ``p``.
        children: markup or text; None is left out.
        attributes: ``class_`` is written ``class``, ``aria_label`` is written ``aria-label``; True stands for
            the bare name, None and False leave the attribute out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    opening = f"<{name}{written}>"
    if name in _VOID:
        return Markup(opening)
    inner = joined(child for child in children if child is not None)
    return Markup(f"{opening}{inner}</{name}>")


def foreign(text: str) -> Markup:
    """Text that somebody else wrote, whose writing direction stays its own."""
    return element("bdi", text)


def hidden(text: str) -> Markup:
    """Text for screen readers alone."""
    return element("span", text, class_="hidden")


def table(
    header: Iterable[object], rows: Iterable[Iterable[object]], *, label: str, numbers: int = 1
) -> Markup:
    """A table that scrolls inside itself where the page is narrow.

    Args:
        header: of the columns.
        rows: cells; the first of each row names it.
        label: what the table holds, for screen readers.
        numbers: from this column on cells are figures, set flush right.
    """

    def kind(column: int) -> str | None:
        return "number" if column >= numbers else None

    head = [element("th", cell, scope="col", class_=kind(i)) for i, cell in enumerate(header)]
    body = []
    for first, *others in rows:
        cells = [element("td", cell, class_=kind(i)) for i, cell in enumerate(others, start=1)]
        body.append(element("tr", element("th", first, scope="row"), *cells))
    inner = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", inner, class_="scroll", role="region", aria_label=label, tabindex=0)


def fold(summary: object, *children: object, class_: str | None = None) -> Markup:
    """Closed until somebody opens it."""
    return element("details", element("summary", summary), *children, class_=class_)


def bullets(lines: Iterable[object]) -> Markup:
    """A list, or nothing without lines."""
    items = [element("li", line) for line in lines]
    return element("ul", *items) if items else Markup("")


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(value)}"'
