"""One page that needs nothing but a browser: no network and no other file.

The policy in its head lets a browser load nothing but the sounds that are written in the page, and run
nothing but ``page.js`` as it was packaged; text that got into the page cannot become a script.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.html.charts import figure
from audiolm_compress.report.html.clips import clips
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.groups import groups
from audiolm_compress.report.html.headline import headline
from audiolm_compress.report.html.latency import latency
from audiolm_compress.report.html.markup import Markup, element, joined
from audiolm_compress.report.html.memory import memory
from audiolm_compress.report.html.method import method
from audiolm_compress.report.html.pareto import Point, pareto
from audiolm_compress.report.html.settings import PageSettings
from audiolm_compress.report.html.steps import steps

_MIB = 2**20


def render(content: Content, settings: PageSettings | None = None) -> str:
    """The whole document.

    Args:
        content: what to show.
        settings: how many clips, and how much of their audio.
    """
    sections = {
        "Summary": headline(content),
        "Trade-off": _trade_off(content),
        "Memory": memory(content),
        "Passes": steps(content) if content.steps else Markup(""),
        "Latency": latency(content),
        "Groups": groups(content),
        "Clips": clips(content, settings or PageSettings()),
        "Method": method(content),
    }
    shown = {title: inner for title, inner in sections.items() if inner}
    body = element(
        "body",
        element("a", "Skip to the figures", href="#summary", class_="skip"),
        _header(content),
        _navigation(list(shown)),
        element("main", *(_section(title, inner) for title, inner in shown.items())),
        element(
            "footer", element("div", f"audiolm-compress {content.environment.get('audiolm_compress', '')}")
        ),
    )
    return "<!doctype html>\n" + element("html", _head(content), body, lang="en") + "\n"


def _head(content: Content) -> Markup:
    style, script = _packaged("page.css"), _packaged("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{content.title} · {content.kind}"),
        element("style", style),
        element("script", script),
    )


def _packaged(name: str) -> Markup:
    """A file of this package, which holds nothing that would end its element."""
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _header(content: Content) -> Markup:
    inner = [
        element("p", content.kind, class_="eyebrow"),
        element("h1", content.title),
        element("p", content.lead, class_="lead"),
    ]
    return element("header", element("div", *inner))


def _navigation(titles: list[str]) -> Markup:
    links = [element("li", element("a", title, href=f"#{_anchor(title)}")) for title in titles]
    button = element("button", "Theme", type="button", id="theme", title="Light or dark", hidden=True)
    return element("nav", element("div", element("ul", *links), button), aria_label="Sections")


def _section(title: str, inner: Markup) -> Markup:
    anchor = _anchor(title)
    heading = element("h2", title, id=f"{anchor}-title")
    return element("section", heading, inner, id=anchor, aria_labelledby=f"{anchor}-title")


def _anchor(title: str) -> str:
    return title.lower()


def _trade_off(content: Content) -> Markup:
    """Weights against each score, where there are enough models to choose among."""
    if len(content.sides) < 3:
        return Markup("")
    panels = []
    names = joined([element("li", name) for name in content.sides])
    for score in content.scores:
        kind = SCORES[score]
        points = [
            Point(name, side.weight_bytes / _MIB, found.value, found.low, found.high)
            for name, side in content.sides.items()
            if (found := side.scores.get(score)) is not None
        ]
        if len(points) < len(content.sides):
            continue
        label, axis = f"{kind.title} against weights", "weights, MiB"
        plot = pareto(label, points, cost=axis, score=kind.title, lower_is_better=kind.lower_is_better)
        key = element("ol", names, class_="numbered")
        note = "Lines are 95 % intervals; dashed: no other model is both smaller and better."
        panels.append(element("div", figure(label, plot, key, note=note), class_="panel"))
    return element("div", *panels, class_="pair") if panels else Markup("")
