"""A comparison of runs as one page: the tables, and the Pareto plots."""

from __future__ import annotations

from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report import rows
from audiolm_compress.report.compare.comparison import Comparison
from audiolm_compress.report.compare.published import MARK, Published
from audiolm_compress.report.compare.run import Cost, Run
from audiolm_compress.report.compare.tables import (
    goals_met,
    lines,
    measured,
    pareto_with,
    score_title,
    unit,
)
from audiolm_compress.report.html.charts import figure
from audiolm_compress.report.html.frame import document
from audiolm_compress.report.html.markup import Markup, bullets, element, foreign, joined, table
from audiolm_compress.report.html.pareto import Point, pareto
from audiolm_compress.report.html.verdict import bounds, change, chip, quiet, signed, verdict
from audiolm_compress.report.quality import p_value

_MIB = 2**20


def page(found: Comparison) -> str:
    """The whole document."""
    sections = {
        "Summary": _summary(found),
        "Scores": joined(_scores(found, score) for score in found.scores),
        "Trade-off": _trade_off(found),
        "Goals": _missed(found),
        "Reference": _published(found.published),
    }
    against = ", ".join(dict.fromkeys(run.side.source for run in found.baselines))
    count = f"{len(found.runs)} {'run' if len(found.runs) == 1 else 'runs'}"
    return document(
        "Runs compared",
        f"{count}, each against its own baseline{f' ({against})' if against else ''}.",
        sections | {"Method": element("div", bullets(lines(found)), class_="panel")},
        kind="Comparison",
        version=str(found.runs[0].side.environment.get("audiolm_compress", "")),
    )


def _all(found: Comparison) -> tuple[Run, ...]:
    return (*found.baselines, *found.runs)


def _summary(found: Comparison) -> Markup:
    """Sizes and times with their changes, and first of all what the runs have not in common."""
    header = ["run", *(f"{cost.title}, {unit(found, cost)}" for cost in found.costs), "goals met"]
    body = [
        [foreign(run.name), *(_cost(found, run, cost) for cost in found.costs), _goals(run)]
        for run in _all(found)
    ]
    shown = table(header, body, label="Sizes and times of all runs")
    warnings = bullets(found.notes())
    alike = element("div", element("h3", "What differs between the runs"), warnings, class_="panel")
    return joined([alike if warnings else "", element("div", shown, class_="panel")])


def _cost(found: Comparison, run: Run, cost: Cost) -> Markup:
    parts: list[object] = [measured(found, run, cost)]
    ratio = None if run.baseline is None else run.ratio(cost)
    if run.baseline is not None and ratio is not None:
        parts += [quiet(f"{ratio:.3f}\N{MULTIPLICATION SIGN}"), change(1.0, ratio)]
    return joined(part for part in parts if part is not None)


def _goals(run: Run) -> Markup:
    if not run.goals:
        return Markup("")
    return chip(goals_met(run), "met" if all(goal.met for goal in run.goals) else "missed")


def _scores(found: Comparison, score: str) -> Markup:
    header = ["run", SCORES[score].title, "from its own baseline", "p", "verdict", "Pareto-optimal with"]
    body: list[list[object]] = []
    for run in _all(found):
        held, result = run.side.scores.get(score), run.difference(score)
        if held is None:
            continue
        cells: list[object] = [
            foreign(run.name),
            joined([f"{held.value:.4f}", quiet(bounds(held.low, held.high))]),
        ]
        if result is None:
            cells += ["", "", ""]
        else:
            interval = result.difference_interval
            between = quiet(bounds(interval.low, interval.high, "+.4f"))
            cells += [
                joined([signed(result.difference), between]),
                p_value(result),
                verdict(score, result),
            ]
        best = [chip(title, "met") for title in pareto_with(found, run, score)]
        body.append([*cells, joined(best, " ")])
    title = score_title(found, score)
    return element("div", element("h3", title), table(header, body, label=title), class_="panel")


def _trade_off(found: Comparison) -> Markup:
    """Each score against weights and against TTFT, where there are enough models to choose among."""
    panels = []
    for score in found.scores:
        for cost in found.traded:
            points = found.points(cost, score)
            if len(points) >= 3:
                panels.append(_plot(cost, score, points))
    return element("div", *panels, class_="pair") if panels else Markup("")


def _plot(cost: Cost, score: str, points: list[Point]) -> Markup:
    kind, in_bytes = SCORES[score], cost.name == "weights"
    scaled = [Point(p.name, p.cost / _MIB if in_bytes else p.cost, p.score, p.low, p.high) for p in points]
    axis = f"{cost.title}, {'MiB' if in_bytes else 'ratio to the own baseline'}"
    label = f"{kind.title} against {cost.title}"
    plot = pareto(label, scaled, cost=axis, score=kind.title, lower_is_better=kind.lower_is_better)
    key = element("ol", *(element("li", foreign(point.name)) for point in points), class_="numbered")
    note = "Lines are 95 % intervals; dashed: no other model costs less and is better."
    return element("div", figure(label, plot, key, note=note), class_="panel")


def _missed(found: Comparison) -> Markup:
    body = [(foreign(run.name), *row[:4]) for run in found.runs for row in rows.missed_rows(run.goals)]
    if not body:
        return Markup("")
    shown = table(("run", *rows.MISSED[:4]), body, label="Goals missed", numbers=2)
    return element("div", element("h3", "Missed"), shown, class_="panel")


def _published(found: tuple[Published, ...]) -> Markup:
    """Apart from all that was measured, and in no plot."""
    if not found:
        return Markup("")
    header = ("team", "WER", "SPIDEr", "memory, GiB", "TTFT, s", "TPOT, s")
    body = []
    for row in found:
        figures = (row.wer, row.spider, row.memory_gib, row.ttft_s, row.tpot_s)
        name = joined([element("span", row.team), " ", quiet(row.how)])
        body.append([name, *("" if value is None else f"{value:g}" for value in figures)])
    note = element("p", "Nothing is computed from these figures.", class_="note")
    title = f"For reference: {MARK}"
    return element("div", element("h3", title), table(header, body, label=title), note, class_="panel")
