"""What a reader must see first: the figures, how sure they are, and whether the goals are met."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report import quality, rows
from audiolm_compress.report.differences import HOW_INTERVALS_ARE_MADE, HOW_NOISE_IS_JUDGED
from audiolm_compress.report.goals import Goal
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.interval import interval
from audiolm_compress.report.html.markup import Markup, element, joined, table
from audiolm_compress.report.html.verdict import (
    bounds,
    change,
    chip,
    quiet,
    signed,
    size,
    times,
    verdict,
    verdict_class,
)

_Read = Callable[[Measurements], float | None]
# Title, unit, figure, figure in words.
_COSTS: tuple[tuple[str, str, _Read, Callable[[Measurements], str]], ...] = (
    ("Weights", "MiB", lambda side: side.weight_bytes, lambda side: rows.mib(side.weight_bytes)),
    (
        "Peak memory",
        "MiB",
        lambda side: side.peak_memory_bytes,
        lambda side: rows.mib(side.peak_memory_bytes),
    ),
    ("TTFT", "ms", lambda side: side.ttft_s, lambda side: rows.milliseconds(side.ttft_s)),
    ("TPOT", "ms", lambda side: side.tpot_s, lambda side: rows.milliseconds(side.tpot_s)),
)
_WORDS = (
    "TTFT: time to the first token, from the waveform on. TPOT: time per further token. Both are medians "
    "over real clips. Intervals are 95 % bootstrap intervals over the test clips."
)


def headline(content: Content) -> Markup:
    """Cards of two models, the table of all, every difference with its interval, the goals."""
    return joined(
        [
            _cards(content) if len(content.sides) == 2 else "",
            _main_table(content),
            _differences(content),
            _goals(content.goals),
        ]
    )


def _cards(content: Content) -> Markup:
    """The candidate's figures, large."""
    before, after = content.sides.values()
    (found,) = content.differences.values()
    cards = []
    for title, unit, read, _ in _COSTS:
        old, new = read(before), read(after)
        cards.append(_card(title, *_large(new, unit), " ".join(_large(old, unit)), change(old, new)))
    for score, result in found.items():
        sure = verdict(score, result)
        cards.append(
            _card(SCORES[score].title, f"{result.candidate:.4f}", "", f"{result.baseline:.4f}", sure)
        )
    return element("ul", *cards, class_="cards")


def _large(figure: float | None, unit: str) -> tuple[str, str]:
    if figure is None:
        return "n/a", ""
    return size(figure) if unit == "MiB" else (f"{figure * 1e3:.4g}", unit)


def _card(title: str, figure: str, unit: str, before: str, sure: Markup | None) -> Markup:
    return element(
        "li",
        element("span", title, class_="what"),
        element(
            "span", figure, element("span", f" {unit}", class_="unit") if unit else None, class_="figure"
        ),
        element("span", f"from {before}", class_="from"),
        sure,
    )


def _main_table(content: Content) -> Markup:
    """Every model, its figures, the change from the first and how sure it is."""
    first = next(iter(content.sides.values()))
    header = ["model", *(f"{title}, {unit}" for title, unit, *_ in _COSTS)]
    header += [SCORES[name].title for name in content.scores]
    body: list[list[object]] = []
    for name, side in {**content.sides, **(content.further or {})}.items():
        cells: list[object] = [element("span", name)]
        for _, _, read, shown in _COSTS:
            below = None if side is first else quiet(times(read(first), read(side)))
            cells.append(joined(filter(None, [shown(side), below])))
        cells += [_score_cell(content, name, side, score) for score in content.scores]
        body.append(cells)
    shown_table = table(header, body, label="All models: sizes, times and scores")
    note = element("p", " ".join([_WORDS, *_missing(content)]), class_="note")
    return element("div", element("h3", "All figures"), shown_table, note, class_="panel")


def _missing(content: Content) -> list[str]:
    """Why there are scores that the clips could have but no model has, a sentence for each reason."""
    titles: dict[str, list[str]] = {}
    for side in content.sides.values():
        for score, why in side.unscored.items():
            listed = titles.setdefault(why, [])
            if score not in content.scores and SCORES[score].title not in listed:
                listed.append(SCORES[score].title)
    return [f"{', '.join(listed)}: {why}." for why, listed in titles.items() if listed]


def _score_cell(content: Content, name: str, side: Measurements, score: str) -> Markup:
    if score not in side.scores:
        return joined(["n/a"])
    found = side.scores[score]
    parts: list[object] = [f"{found.value:.4f}", quiet(bounds(found.low, found.high))]
    difference = content.differences.get(name, {}).get(score)
    if difference is not None:
        parts.append(quiet(signed(difference.difference)))
    return joined(parts)


def _differences(content: Content) -> Markup:
    lines = []
    for name, found in content.differences.items():
        for score, result in found.items():
            low, high = result.difference_interval.low, result.difference_interval.high
            kind = SCORES[score]
            whose = quiet(name) if len(content.differences) > 1 else None
            between = bounds(low, high, "+.4f")
            told = f"{kind.title} of {name}: {signed(result.difference)}, 95 % interval {between}"
            lines.append(
                element(
                    "li",
                    element("span", element("b", kind.title), whose),
                    element(
                        "span",
                        element("span", signed(result.difference), class_="figure"),
                        quiet(between),
                        quiet(f"{result.clips} clips, p {quality.p_value(result)}"),
                        class_="change",
                    ),
                    element(
                        "div",
                        interval(
                            told, result, verdict_class(score, result), lower_is_better=kind.lower_is_better
                        ),
                        element(
                            "div", element("span", "◂ worse"), element("span", "better ▸"), class_="ends"
                        ),
                        class_="plot",
                    ),
                    verdict(score, result),
                )
            )
    if not lines:
        return Markup("")
    title = "Differences from the baseline, with 95 % intervals"
    note = f"How to read this: {HOW_INTERVALS_ARE_MADE}; {HOW_NOISE_IS_JUDGED}."
    listed = element("ul", *lines, class_="verdicts")
    return element("div", element("h3", title), listed, element("p", note, class_="note"), class_="panel")


def _goals(goals: Sequence[Goal]) -> Markup:
    lines = []
    for goal in goals:
        asked = "no more than noise" if goal.limit == "noise" else f"at most {goal.limit}"
        note = f" ({goal.note})" if goal.note else ""
        lines.append(
            element(
                "li",
                chip("✓ met", "met") if goal.met else chip("✗ missed", "missed"),
                element("b", goal.name),
                element("span", f"{rows.reached(goal)}, asked for {asked}{note}"),
            )
        )
    if not lines:
        return Markup("")
    return element("div", element("h3", "Goals"), element("ul", *lines, class_="goals"), class_="panel")
