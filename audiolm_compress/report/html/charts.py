"""What all plots share: SVG that is as wide as its place, without any script.

Horizontal positions are percentages and vertical ones pixels, so a plot fills a phone as well as a desk, and
its letters keep their size. Colours come from the style sheet by class, so they follow the theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from audiolm_compress.report.html.markup import Markup, element

SERIES = 6  # colours of the style sheet for sides, and for segments


def chart(label: str, height: float, marks: Iterable[Markup]) -> Markup:
    """A plot; ``label`` tells those who cannot see it what it shows."""
    return element("svg", *marks, class_="chart", role="img", aria_label=label, width="100%", height=height)


def box(x: float, y: float, width: float, height: float, class_: str, tip: str = "") -> Markup:
    """A bar from ``x`` % on, ``width`` % wide, with what shows under the pointer."""
    title = element("title", tip) if tip else None
    return element(
        "rect", title, x=_share(x), y=y, width=_share(max(width, 0)), height=height, class_=class_, rx=2
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """From ``x1`` % to ``x2`` %."""
    return element("line", x1=_share(x1), y1=y1, x2=_share(x2), y2=y2, class_=class_)


def dot(x: float, y: float, class_: str, radius: float = 5) -> Markup:
    """A filled circle."""
    return element("circle", cx=_share(x), cy=y, r=radius, class_=class_)


def words(x: float, y: float, text: str, class_: str = "", dx: float = 0) -> Markup:
    """A line of text whose base line is at ``y``; ``class_`` sets size, weight and anchor."""
    return element("text", text, x=_share(x), y=y, dx=dx or None, class_=class_ or None)


def figure(title: str, *content: object, note: str = "") -> Markup:
    """A plot with its heading, and below it what a reader must know to read it."""
    caption = element("figcaption", note) if note else None
    return element("figure", element("h3", title), *content, caption)


def legend(names: Sequence[str], class_: str = "side") -> Markup:
    """Which colour is which; of the classes ``side0`` ... or ``part0`` ..."""
    items = []
    for index, name in enumerate(names):
        swatch = element(
            "svg",
            element("rect", width=12, height=12, rx=2, class_=f"{class_}{index % SERIES}"),
            width=12,
            height=12,
            aria_hidden="true",
        )
        items.append(element("li", swatch, element("span", name)))
    return element("ul", *items, class_="legend")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, about ``count`` of them.

    >>> ticks(0.13, 0.41)
    [0.1, 0.2, 0.3, 0.4, 0.5]
    """
    span = (high - low) or abs(high) or 1.0
    rough = span / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _share(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"
