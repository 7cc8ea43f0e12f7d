"""Where the time goes: to the first token, by part where it was split, and per further token."""

from __future__ import annotations

from audiolm_compress.measurement.measurements import Latency, Measurements, Spread
from audiolm_compress.report import timing
from audiolm_compress.report.html.bars import Bar, Group, bars
from audiolm_compress.report.html.charts import figure, legend
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.markup import Markup, element, fold, joined, table
from audiolm_compress.report.html.verdict import plain_name

_PROTOCOLS = (
    ("real clips", "clips_latency"),
    ("upstream protocol", "noise_latency"),
    ("transformers' generate", "transformers_latency"),
)


def latency(content: Content) -> Markup:
    """Both times in every protocol, then the parts of the first."""
    names = legend(list(content.sides))
    note = "Bars end at the median, whiskers reach from the 5th to the 95th percentile. " + " ".join(
        f"{title.capitalize()}: {how}." for title, how in _methods(content)
    )
    panels = [
        figure("Time to the first token (TTFT), ms", names, bars("TTFT in ms", _groups(content, "ttft"))),
        figure("Time per further token (TPOT), ms", names, bars("TPOT in ms", _groups(content, "tpot"))),
    ]
    pair = element("div", *(element("div", panel, class_="panel") for panel in panels), class_="pair")
    return joined([pair, element("p", note, class_="note"), _parts(content), _further(content)])


def _methods(content: Content) -> list[tuple[str, str]]:
    first = next(iter(content.sides.values()))
    return [(title, found.protocol) for title, found in _timed(first)]


def _timed(side: Measurements) -> list[tuple[str, Latency]]:
    found = [(title, getattr(side, field)) for title, field in _PROTOCOLS]
    return [(title, times) for title, times in found if times is not None]


def _groups(content: Content, figure_name: str) -> list[Group]:
    groups: dict[str, list[Bar]] = {}
    for index, (name, side) in enumerate(content.sides.items()):
        for title, times in _timed(side):
            spread: Spread | None = getattr(times, figure_name)
            if spread is not None:
                groups.setdefault(title, []).append(_bar(name, spread, index))
    return [Group(title, tuple(found)) for title, found in groups.items()]


def _bar(name: str, spread: Spread, index: int) -> Bar:
    low, median, high = (value * 1e3 for value in (spread.p5, spread.median, spread.p95))
    return Bar(name, median, f"{median:.2f}", index, spread=(low, high))


def _parts(content: Content) -> Markup:
    """TTFT split; models that were not split are left out, and without any there is nothing to show."""
    split = {
        (title, name): times.parts
        for title, field in _PROTOCOLS
        for name, side in content.sides.items()
        if (times := getattr(side, field)) is not None and times.parts
    }
    parts = list(dict.fromkeys(part for found in split.values() for part in found))
    if not parts:
        return Markup("")
    shown = {of: [found[p].median * 1e3 if p in found else 0.0 for p in parts] for of, found in split.items()}
    titles = [plain_name(part) for part in parts]
    groups = [
        Group(
            f"{title}, {name}",
            (
                Bar(
                    name,
                    sum(values),
                    f"{sum(values):.1f}",
                    0,
                    segments=tuple(zip(titles, values, strict=True)),
                ),
            ),
        )
        for (title, name), values in shown.items()
    ]
    cells = [[f"{title}, {name}", *(f"{v:.2f}" for v in values)] for (title, name), values in shown.items()]
    return element(
        "div",
        figure(
            "Where the time to the first token goes, ms",
            legend(titles, "part"),
            bars("Parts of TTFT in ms", groups),
            fold("As a table", table(["model", *titles], cells, label="Parts of TTFT in ms")),
            note="Medians of the single parts; they need not add up to the median of the whole.",
        ),
        class_="panel",
    )


def _further(content: Content) -> Markup:
    """Real-time factor, energy, key-value cache and batches, where they were measured."""
    found = {name: timing.throughput(side) for name, side in content.sides.items()}
    figures = list(dict.fromkeys(figure for cells in found.values() for figure in cells))
    if not figures:
        return Markup("")
    body = [[figure, *(cells.get(figure, "n/a") for cells in found.values())] for figure in figures]
    shown = table(["figure", *found], body, label="Throughput and energy")
    return element("div", element("h3", "Throughput and energy"), shown, class_="panel")
