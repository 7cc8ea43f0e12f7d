"""The passes: what each took away, what it measured itself, and all that it was told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from audiolm_compress.report import rows
from audiolm_compress.report.html.charts import figure
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.markup import Markup, bullets, element, fold, joined, table
from audiolm_compress.report.html.verdict import chip, plain_name, quiet, times
from audiolm_compress.report.html.waterfall import Stage, waterfall
from audiolm_compress.report.step import Step

_MIB = 2**20


def steps(content: Content) -> Markup:
    """The waterfall of weights, the passes as a table, and each of them in full when it is opened."""
    (first, baseline), *_, (last, candidate) = content.sides.items()
    before = baseline.weight_bytes
    stages = [Stage(first, None, before / _MIB, f"{rows.mib(before)} MiB")]
    body: list[list[object]] = []
    for index, step in enumerate(content.steps, start=1):
        after = sum(step.weight_bytes.values())
        name = f"{index}. {step.name}"
        stages.append(Stage(name, before / _MIB, after / _MIB, _taken(before, after)))
        seconds = f"{step.seconds:.1f}"
        body.append([name, step.summary, measured(step.figures), _weights(before, after), seconds])
        before = after
    end = candidate.weight_bytes
    stages.append(Stage(last, None, end / _MIB, f"{rows.mib(end)} MiB"))
    header = ["pass", "what it did", "measured before and after it", "weights, MiB", "seconds"]
    plot = figure(
        "Weights after each pass, MiB",
        waterfall("Weights after each pass", stages),
        note="Grey is what is left after a pass, colour what it took away.",
    )
    listed = table(header, body, label="All passes", numbers=3)
    return joined(
        [
            element("div", plot, class_="panel"),
            element("div", element("h3", "What each pass did"), listed, class_="panel"),
            element("h3", "Settings, figures and modules"),
            *(_in_full(index, step) for index, step in enumerate(content.steps, start=1)),
        ]
    )


def measured(figures: Mapping[str, Any]) -> Markup:
    """Every figure that a pass gives before and after itself, such as the calibration loss."""
    lines = []
    for name, before in figures.items():
        after = figures.get(name.replace("before", "after")) if "before" in name else None
        if isinstance(before, int | float) and isinstance(after, int | float):
            what = plain_name(" ".join(name.replace("before", "").replace("_", " ").split()))
            lines.append(element("div", quiet(f"{what} "), f"{_number(before)} → {_number(after)}"))
    return joined(lines)


def _taken(before: int, after: int) -> str:
    if before == after:
        return f"±0 → {rows.mib(after)}"
    return f"{(after - before) / _MIB:+.2f} → {rows.mib(after)}".replace("-", "\N{MINUS SIGN}")


def _weights(before: int, after: int) -> Markup:
    return joined([rows.mib(after), quiet(times(before, after))])


def _in_full(index: int, step: Step) -> Markup:
    unchanged = None if step.changed else chip("changed nothing", "even")
    title = joined([f"{index}. {step.name} ", quiet(f"{step.summary} "), unchanged or ""])
    settings = {name: value for name, value in step.settings.items() if name != "pass"}
    return fold(
        title,
        _pairs("Settings", settings),
        _pairs("Figures", step.figures),
        joined([element("h4", "Notes"), bullets(step.notes)]) if step.notes else None,
        _modules(step.modules),
    )


def _pairs(title: str, values: Mapping[str, Any]) -> Markup | None:
    if not values:
        return None
    items = [
        joined([element("dt", plain_name(name)), element("dd", in_words(value))])
        for name, value in values.items()
    ]
    return joined([element("h4", title), element("dl", *items)])


def _modules(modules: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not modules:
        return None
    columns = list(dict.fromkeys(name for row in modules for name in row))
    body = [[in_words(row.get(name, "")) for name in columns] for row in modules]
    shown = table(map(plain_name, columns), body, label="Changed modules")
    return joined([element("h4", f"Modules ({len(modules)})"), shown])


def in_words(value: Any) -> str:
    """A setting or figure as it is read: YAML's words for what is no text and no number."""
    if isinstance(value, bool) or value is None or isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
