"""One page that needs nothing but a browser: no network and no other file."""

from __future__ import annotations

from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.html.charts import figure
from audiolm_compress.report.html.clips import clips
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.frame import document
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
    version = str(content.environment.get("audiolm_compress", ""))
    return document(content.title, content.lead, sections, kind=content.kind, version=version)


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
