"""Plots are honest: lengths are in proportion, zero is where it says, better is to the right."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest

from audiolm_compress.metrics.bootstrap import Interval, PairedResult, paired_bootstrap
from audiolm_compress.report.html.bars import Bar, Group, bars
from audiolm_compress.report.html.charts import ticks
from audiolm_compress.report.html.interval import interval
from audiolm_compress.report.html.markup import element, escaped
from audiolm_compress.report.html.pareto import Point, front, pareto
from audiolm_compress.report.html.waterfall import Stage, waterfall


def numbers(markup: str, name: str, key: str, class_: str = "") -> list[float]:
    found = re.findall(f"<{name} ([^>]*)>", markup)
    chosen = [text for text in found if class_ in text]
    return [float(re.search(rf'\b{key}="([-\d.]+)', text)[1]) for text in chosen]  # type: ignore[index]


def test_bars_start_at_zero_and_are_in_proportion() -> None:
    group = Group("llm", (Bar("a", 4.0, "4 MiB", 0), Bar("b", 1.0, "1 MiB", 1), Bar("c", 0.0, "0 MiB", 2)))
    plot = bars("Weights", [group])
    widths = numbers(plot, "rect", "width")
    assert widths[0] == pytest.approx(4 * widths[1]) and widths[2] == 0 and widths[0] < 100
    assert set(numbers(plot, "rect", "x")) == {0.0}
    assert 'aria-label="Weights. llm: a 4 MiB, b 1 MiB, c 0 MiB"' in plot


def test_segments_follow_each_other_up_to_the_whole() -> None:
    parts = (("features", 1.0), ("prefill", 3.0))
    plot = bars(
        "TTFT", [Group("real clips", (Bar("a", 4.0, "4 ms", 0, segments=parts), Bar("b", 8.0, "8", 1)))]
    )
    starts, widths = numbers(plot, "rect", "x", "part"), numbers(plot, "rect", "width", "part")
    assert starts == pytest.approx([0.0, widths[0]])
    assert sum(widths) == pytest.approx(numbers(plot, "rect", "width", "side1")[0] / 2, abs=0.01)


def test_a_whisker_that_reaches_farther_than_any_bar_stays_inside() -> None:
    bar = Bar("a", 1.0, "1 ms", 0, spread=(0.5, 4.0))
    assert max(numbers(bars("TPOT", [Group("real clips", (bar,))]), "line", "x2")) < 100


def test_the_waterfall_shows_losses_and_gains() -> None:
    stages = [Stage("before", None, 8, "8"), Stage("cast", 8, 4, "4"), Stage("grow", 4, 5, "5")]
    plot = waterfall("Weights", [*stages, Stage("after", None, 5, "5")])
    assert numbers(plot, "rect", "width", "saved") == [50] and numbers(plot, "rect", "x", "saved") == [50]
    assert numbers(plot, "rect", "width", "grown") == [12.5] and numbers(plot, "rect", "x", "grown") == [50]
    assert numbers(plot, "rect", "width", "side") == [100, 62.5]


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_better_is_to_the_right_of_zero(lower_is_better: bool) -> None:
    rising = paired_bootstrap([0.1, 0.2, 0.1, 0.3], [0.3, 0.5, 0.2, 0.6])
    plot = interval("WER", rising, "even", lower_is_better=lower_is_better)
    (point,) = numbers(plot, "circle", "cx")
    ends = numbers(plot, "line", "x1", "range") + numbers(plot, "line", "x2", "range")
    assert (point < 50) == lower_is_better
    assert ends[0] <= point <= ends[1] and ends[0] >= 0 and ends[1] <= 100


def test_no_difference_at_all_is_drawn_at_zero() -> None:
    none = Interval(0.0, 0.0)
    assert numbers(interval("WER", _found(0, none), "even", lower_is_better=True), "circle", "cx") == [50]


def test_an_interval_without_bounds_reaches_from_rim_to_rim() -> None:
    plot = interval("WER", _found(0.1, Interval(-math.inf, math.inf)), "even", lower_is_better=False)
    assert numbers(plot, "line", "x1", "range") + numbers(plot, "line", "x2", "range") == [0, 100]
    points = [Point("a", 1, 0.5, -math.inf, math.inf), Point("b", 2, 0.3, 0.2, 0.4)]
    spread = pareto("WER", points, cost="MiB", score="WER", lower_is_better=True)
    assert all(0 <= height <= 300 for height in numbers(spread, "line", "y1") + numbers(spread, "line", "y2"))


def _found(difference: float, bounds: Interval) -> PairedResult:
    return PairedResult(1, 1 + difference, difference, bounds, bounds, bounds, 1.0, True, 3, 10, 0)


def test_the_front_holds_those_that_none_beats() -> None:
    points = [Point("a", 1, 0.5, 0.4, 0.6), Point("b", 2, 0.3, 0.2, 0.4), Point("c", 3, 0.4, 0.3, 0.5)]
    assert [point.name for point in front(points, lower_is_better=True)] == ["a", "b"]
    assert [point.name for point in front(points, lower_is_better=False)] == ["a"]
    plot = pareto("WER", points, cost="MiB", score="WER", lower_is_better=True)
    heights = numbers(plot, "circle", "cy")
    assert heights[0] < heights[2] < heights[1], "less is lower"
    assert numbers(plot, "circle", "cx") == sorted(numbers(plot, "circle", "cx"))


def test_one_model_that_is_always_right_has_axes() -> None:
    plot = pareto("WER", [Point("a", 1, 0, 0, 0)], cost="MiB", score="WER", lower_is_better=True)
    assert all(0 <= value <= 300 for value in numbers(plot, "circle", "cy"))


@pytest.mark.parametrize(("low", "high"), [(0.13, 0.41), (0, 7861), (-0.2, 0.1), (5, 5), (0, 0)])
def test_ticks_are_even_and_hold_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8
    steps = [after - before for before, after in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps)) and steps[0] > 0


def test_markup_escapes_what_is_not_markup() -> None:
    assert element("p", "<b>", element("b", 1), None, class_="a", hidden=True, id=None, title='"') == (
        '<p class="a" hidden title="&quot;">&lt;b&gt;<b>1</b></p>'
    )
    assert escaped("a\x00\ud800\n") == "a\ufffd\ufffd\n"
