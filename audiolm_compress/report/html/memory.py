"""What the weights of each part take, and the peaks of memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.report import rows
from audiolm_compress.report.html.bars import Bar, Group, bars
from audiolm_compress.report.html.charts import figure, legend
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.markup import Markup, element, fold, table
from audiolm_compress.report.html.verdict import plain_name, times

_MIB = 2**20
_Read = Callable[[Measurements], int | None]
_PEAKS: tuple[tuple[str, _Read], ...] = (
    ("peak", lambda side: side.memory.peak),
    ("after loading", lambda side: side.memory.inference_peak),
    ("in the upstream protocol", lambda side: side.memory.noise_protocol_peak),
)


def memory(content: Content) -> Markup:
    """Weights by part on one scale, peaks on another."""
    sides = content.sides
    parts = list(dict.fromkeys(part for side in sides.values() for part in side.weight_bytes_by_part))
    weights = [_group(content, "all parts", lambda side: side.weight_bytes)]
    weights += [_group(content, plain_name(part), partial(_of_part, part=part)) for part in parts]
    peaks = [_group(content, title, read) for title, read in _PEAKS]
    peaks = [group for group in peaks if group.bars]
    methods = dict.fromkeys(side.memory.method for side in sides.values())
    names = legend(list(sides))
    title = "Weights by part, MiB"
    figures = [
        figure(title, names, bars(title, weights), _as_table(content, parts)),
        figure(
            "Peak memory, MiB", names, bars("Peak memory, MiB", peaks), note=f"Counted: {'; '.join(methods)}."
        ),
    ]
    return element("div", *(element("div", item, class_="panel") for item in figures), class_="pair")


def _group(content: Content, title: str, read: _Read) -> Group:
    """One bar for each side that has the figure."""
    found = [(index, name, read(side)) for index, (name, side) in enumerate(content.sides.items())]
    return Group(
        title,
        tuple(Bar(name, n / _MIB, rows.mib(n), index) for index, name, n in found if n is not None),
    )


def _of_part(side: Measurements, part: str) -> int:
    return side.weight_bytes_by_part.get(part, 0)


def _as_table(content: Content, parts: list[str]) -> Markup:
    def cells(title: str, counts: list[int]) -> list[object]:
        return [title, *map(rows.mib, counts), times(counts[0], counts[-1])]

    sides: list[Measurements] = list(content.sides.values())
    body = [cells("all parts", [side.weight_bytes for side in sides])]
    body += [cells(plain_name(p), [_of_part(side, p) for side in sides]) for p in parts]
    header = ["part", *content.sides, "last to first"]
    return fold("As a table", table(header, body, label="Weights by part in MiB"))
