"""What the weights of each part take, and the peaks of memory."""

from __future__ import annotations

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.report import rows
from audiolm_compress.report.html.bars import Bar, Group, bars
from audiolm_compress.report.html.charts import figure, legend
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.markup import Markup, element, fold, joined, table
from audiolm_compress.report.html.verdict import plain_name, times

_MIB = 2**20


def memory(content: Content) -> Markup:
    """Weights by part on one scale, peaks on another."""
    sides = content.sides
    parts = list(dict.fromkeys(part for side in sides.values() for part in side.weight_bytes_by_part))
    weights = [_group("all parts", {name: side.weight_bytes for name, side in sides.items()})]
    for part in parts:
        counts = {name: side.weight_bytes_by_part.get(part, 0) for name, side in sides.items()}
        weights.append(_group(plain_name(part), counts))
    peaks = [
        _group(title, {name: value for name, side in sides.items() if (value := read(side)) is not None})
        for title, read in _PEAKS
        if any(read(side) is not None for side in sides.values())
    ]
    method = next(iter(sides.values())).memory.method
    names = legend(list(sides))
    figures = [
        figure(
            "Weights by part, MiB", names, bars("Weights by part in MiB", weights), _as_table(content, parts)
        ),
        figure("Peak memory, MiB", names, bars("Peak memory in MiB", peaks), note=f"Counted: {method}."),
    ]
    panels = [element("div", item, class_="panel") for item in figures]
    return joined([element("div", *panels, class_="pair"), _per_token(content)])


_PEAKS = (
    ("peak", lambda side: side.memory.peak),
    ("after loading", lambda side: side.memory.inference_peak),
    ("in the upstream protocol", lambda side: side.memory.noise_protocol_peak),
)


def _group(title: str, counts: dict[str, int]) -> Group:
    return Group(
        title,
        tuple(
            Bar(name, count / _MIB, rows.mib(count), index)
            for index, (name, count) in enumerate(counts.items())
        ),
    )


def _as_table(content: Content, parts: list[str]) -> Markup:
    def cells(title: str, counts: list[int]) -> list[object]:
        return [title, *map(rows.mib, counts), times(counts[0], counts[-1])]

    sides: list[Measurements] = list(content.sides.values())
    body = [cells("all parts", [side.weight_bytes for side in sides])]
    body += [cells(plain_name(p), [side.weight_bytes_by_part.get(p, 0) for side in sides]) for p in parts]
    header = ["part", *content.sides, "last to first"]
    return fold("As a table", table(header, body, label="Weights by part in MiB"))


def _per_token(content: Content) -> Markup:
    known = {
        name: count
        for name, side in content.sides.items()
        if (count := getattr(side.memory, "kv_cache_bytes_per_token", None)) is not None
    }
    if not known:
        return Markup("")
    told = ", ".join(f"{name} {count / 2**10:.2f} KiB" for name, count in known.items())
    return element("p", f"Key-value cache per token: {told}.", class_="note")
