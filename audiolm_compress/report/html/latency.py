"""Where the time goes: to the first token, by part where it was split, and per further token."""

from __future__ import annotations

from audiolm_compress.measurement.measurements import Latency, Measurements, Spread
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
    groups, titles, body = [], list[str](), []
    for title, field in _PROTOCOLS:
        found = []
        for name, side in content.sides.items():
            times: Latency | None = getattr(side, field)
            split = {} if times is None else _split(times)
            if not split:
                continue
            titles += [part for part in split if part not in titles]
            total = sum(split.values())
            segments = tuple((plain_name(part), seconds * 1e3) for part, seconds in split.items())
            found.append(Bar(name, total * 1e3, f"{name} {total * 1e3:.1f}", 0, segments=segments))
            body.append((f"{title}, {name}", split))
        if found:
            groups.append(Group(title, tuple(found)))
    if not groups:
        return Markup("")
    cells = [[who, *(f"{split.get(t, 0) * 1e3:.2f}" for t in titles)] for who, split in body]
    shown = [plain_name(title) for title in titles]
    return element(
        "div",
        figure(
            "Where the time to the first token goes, ms",
            legend(shown, "part"),
            bars("Parts of TTFT in ms", groups),
            fold("As a table", table(["model", *shown], cells, label="Parts of TTFT in ms")),
            note="Medians of the single parts; they need not add up to the median of the whole.",
        ),
        class_="panel",
    )


def _split(times: Latency) -> dict[str, float]:
    return {part: spread.median for part, spread in getattr(times, "parts", {}).items()}


def _further(content: Content) -> Markup:
    lines = []
    for name, side in content.sides.items():
        times = side.clips_latency
        told = []
        if (factor := getattr(times, "real_time_factor", None)) is not None:
            told.append(f"real-time factor {factor.median:.3f}")
        if (energy := getattr(times, "energy_joules", None)) is not None:
            told.append(f"energy per clip {energy:.3g} J")
        if told:
            lines.append(f"{name}: {', '.join(told)}")
    return element("p", "On real clips: " + "; ".join(lines) + ".", class_="note") if lines else Markup("")
