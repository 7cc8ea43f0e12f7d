"""A comparison of runs on a terminal and in Markdown: the same tables, each narrow enough for 80 columns."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report import markdown as md
from audiolm_compress.report import rows
from audiolm_compress.report.compare.comparison import Comparison
from audiolm_compress.report.compare.published import MARK, Published
from audiolm_compress.report.compare.run import Cost, Run
from audiolm_compress.report.differences import (
    HOW_INTERVALS_ARE_MADE,
    HOW_NOISE_IS_JUDGED,
    verdict,
)
from audiolm_compress.report.section import Section, in_markdown, on_terminal

_GIB, _MIB = 2**30, 2**20
_RATIOS = "in brackets and as change: by, and from, the run's own baseline; times are medians over real clips"
_PARETO = (
    "Pareto with: no other row is as good in both, this cost and the score, and better in one; times are "
    "taken as ratios to the own baseline, and intervals are not looked at"
)


def sections(found: Comparison) -> list[Section]:
    """The tables, those without rows left out."""
    everything = (*found.baselines, *found.runs)
    made = [
        Section(
            "Size and time, by each run's own baseline",
            ("run", *(f"{cost.title}\n{unit(found, cost)}" for cost in found.costs), "goals\nmet"),
            [_costs(found, run) for run in everything] if found.costs else [],
        ),
        *(
            Section(score_title(found, score), _score_header(found, score), _scores(found, score))
            for score in found.scores
        ),
        Section("Goals missed", ("run", *rows.MISSED[:4]), _missed(found)),
        Section(
            f"For reference: {MARK}",
            ("team", "WER", "SPIDEr", "memory\nGiB", "TTFT\ns", "TPOT\ns"),
            [_published(row) for row in found.published],
        ),
    ]
    return [section for section in made if section.body]


def lines(found: Comparison) -> list[str]:
    """What the runs differ in first, then how the figures came about."""
    told = list(found.notes())
    told += [_RATIOS] if found.costs else []
    if any(found.front(cost, score) for cost in found.traded for score in found.scores):
        told.append(_PARETO)
    told += [HOW_INTERVALS_ARE_MADE] if found.scores else []
    told += [HOW_NOISE_IS_JUDGED] if any(run.differences for run in found.runs) else []
    told += dict.fromkeys(line for run in found.runs for line in rows.unscored_lines(run.side))
    told += [
        f"{row.team}: {row.note} ({row.source})" if row.note else f"{row.team}: {row.source}"
        for row in found.published
    ]
    return told


def render(found: Comparison) -> RenderableType:
    """All tables, then the lines, for a terminal."""
    listed = Text("\n".join(f"- {line}" for line in lines(found)))
    return Group(*on_terminal(sections(found)), listed)


def markdown(found: Comparison) -> str:
    """The same as a document."""
    parts = ["# Comparison of runs", *in_markdown(sections(found)), "## Notes", md.bullets(lines(found))]
    return "\n\n".join(parts) + "\n"


def unit(found: Comparison, cost: Cost) -> str:
    """The unit of a column: GiB where a run, not its baseline alone, has one."""
    if cost.unit == "s":
        return "ms"
    largest = max((value for run in found.runs for value in run.values(cost)), default=0.0)
    return "GiB" if largest >= _GIB else "MiB"


def amount(value: float, unit: str) -> str:
    """Bytes or seconds in a column's unit: two decimals, none from a thousand on."""
    figure = value / {"GiB": _GIB, "MiB": _MIB, "ms": 1e-3}[unit]
    return f"{figure:.2f}" if figure < 1000 else f"{figure:.0f}"


def measured(found: Comparison, run: Run, cost: Cost) -> str:
    """The figure, or from the least to the most of those that were measured of a baseline."""
    values = run.values(cost)
    if not values:
        return "n/a"
    ends = dict.fromkeys(amount(value, unit(found, cost)) for value in (min(values), max(values)))
    return "\nto ".join(ends)


def goals_met(run: Run) -> str:
    """How many of how many; "" without goals."""
    return f"{sum(goal.met for goal in run.goals)} of {len(run.goals)}" if run.goals else ""


def score_title(found: Comparison, score: str) -> str:
    """Name and direction of a score, and whether its column may be read downwards."""
    better = "less" if SCORES[score].lower_is_better else "more"
    mark = "" if found.comparable else "; NOT comparable between runs: different test clips"
    return f"{SCORES[score].title}, {better} is better{mark}"


def pareto_with(found: Comparison, run: Run, score: str) -> list[str]:
    """Titles of the costs with which a run is Pareto-optimal in a score."""
    return [cost.title for cost in found.traded if run.name in found.front(cost, score)]


def _costs(found: Comparison, run: Run) -> rows.Row:
    cells = []
    for cost in found.costs:
        ratio = run.ratio(cost) if run.baseline is not None else None
        cells.append(measured(found, run, cost) + ("" if ratio is None else f"\n({ratio:.3f}x)"))
    return (run.name, *cells, goals_met(run))


def _score_header(found: Comparison, score: str) -> rows.Row:
    header = ("run", f"{SCORES[score].title}\n95 % interval", "change\n95 % interval", "verdict")
    return (*header, "Pareto\nwith") if _has_front(found, score) else header


def _has_front(found: Comparison, score: str) -> bool:
    return any(found.front(cost, score) for cost in found.traded)


def _scores(found: Comparison, score: str) -> list[rows.Row]:
    made = []
    for run in (*found.baselines, *found.runs):
        figure = run.side.scores.get(score)
        if figure is None:
            continue
        result = run.difference(score)
        cells = [
            run.name,
            f"{figure.value:.4f}\n({figure.low:.4f} to {figure.high:.4f})",
            *_change(score, result),
        ]
        if _has_front(found, score):
            cells.append(",\n".join(pareto_with(found, run, score)))
        made.append(tuple(cells))
    return made


def _change(score: str, result: PairedResult | None) -> tuple[str, str]:
    if result is None:
        return ("", "")
    return (f"{result.difference:+.4f}\n({rows.between(result)})", verdict(score, result).replace(" ", "\n"))


def _missed(found: Comparison) -> list[rows.Row]:
    return [(run.name, *row[:4]) for run in found.runs for row in rows.missed_rows(run.goals)]


def _published(row: Published) -> rows.Row:
    figures = (
        (row.wer, ".4f"),
        (row.spider, ".4f"),
        (row.memory_gib, ".2f"),
        (row.ttft_s, ".4f"),
        (row.tpot_s, ".4f"),
    )
    return (
        f"{row.team}: {row.how}",
        *("" if value is None else f"{value:{form}}" for value, form in figures),
    )
