"""A benchmark on a terminal and in Markdown: the same tables, each narrow enough for 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report import markdown as md
from audiolm_compress.report import rows, timing
from audiolm_compress.report.differences import HOW_INTERVALS_ARE_MADE, HOW_NOISE_IS_JUDGED, verdict
from audiolm_compress.report.quality import p_value
from audiolm_compress.report.section import Section, in_markdown, on_terminal

if TYPE_CHECKING:
    from audiolm_compress.report.benchmark import Benchmark


def sections(found: Benchmark) -> list[Section]:
    """The tables of a benchmark, those without rows left out."""
    against = found.names[0]
    tables = (
        Section("Size and time (times on real clips)", rows.header(()), _figures(found)),
        Section("Scores", ("model", "score", "", "95 % interval", "clips"), _scores(found)),
        Section(f"Size and time against {against}", rows.header(()), _ratios(found)),
        Section(
            f"Scores against {against}",
            ("model", "score", "difference", "95 % interval", "p", "verdict"),
            _differences(found),
        ),
        Section("Weights by part, MiB", ("model", *_parts(found)), _by_part(found)),
        Section(
            "Latency in ms, median (5 % to 95 %)",
            ("model", "protocol", "TTFT", "TPOT"),
            [row for name, side in found.named.items() for row in _latency(name, side)],
        ),
        Section("TTFT on real clips by part, ms", ("model", *_stages(found)), _by_stage(found)),
        Section("Throughput", ("model", "figure", ""), _throughput(found)),
    )
    return [section for section in tables if section.body]


def lines(found: Benchmark) -> list[str]:
    """How the figures came about, and all that a reader must know about them."""
    how = [HOW_INTERVALS_ARE_MADE] if any(side.scores for side in found.sides) else []
    how += [HOW_NOISE_IS_JUDGED] if any(found.differences) else []
    return [*how, *rows.protocol_lines(found.baseline), *rows.side_lines(found.named), *found.notes]


def render(found: Benchmark) -> RenderableType:
    """All tables, then the lines, for a terminal."""
    listed = Text("\n".join(f"- {line}" for line in lines(found)))
    return Group(*on_terminal(sections(found)), listed)


def markdown(found: Benchmark) -> str:
    """The same as a document, with sample answers and the machine."""
    parts = ["# Benchmark", *in_markdown(sections(found))]
    parts += ["## How it was measured", md.bullets(lines(found))]
    parts += ["## Sample answers", *md.samples(found.named)]
    parts += ["## Environment", md.bullets(md.environment(found.environment))]
    return "\n\n".join(parts) + "\n"


def _figures(found: Benchmark) -> list[rows.Row]:
    return [rows.main_row(name, side, ()) for name, side in found.named.items()]


def _scores(found: Benchmark) -> list[rows.Row]:
    return [
        (
            name,
            SCORES[score].title,
            f"{figure.value:.4f}",
            f"{figure.low:.4f} to {figure.high:.4f}",
            str(figure.clips),
        )
        for score in SCORES
        for name, side in found.named.items()
        if (figure := side.scores.get(score)) is not None
    ]


def _ratios(found: Benchmark) -> list[rows.Row]:
    return [
        (name, *rows.change_row(found.baseline, side, {}, ())[1:]) for name, side, _ in found.candidates()
    ]


def _differences(found: Benchmark) -> list[rows.Row]:
    return [
        (
            name,
            SCORES[score].title,
            f"{result.difference:+.4f}",
            rows.between(result),
            p_value(result),
            verdict(score, result),
        )
        for name, _, results in found.candidates()
        for score, result in results.items()
    ]


def _parts(found: Benchmark) -> list[str]:
    return list(dict.fromkeys(part for side in found.sides for part in side.weight_bytes_by_part))


def _by_part(found: Benchmark) -> list[rows.Row]:
    parts = _parts(found)
    return [
        (name, *(rows.mib(side.weight_bytes_by_part.get(part, 0)) for part in parts))
        for name, side in found.named.items()
    ]


def _stages(found: Benchmark) -> list[str]:
    return list(dict.fromkeys(part for side in found.sides for part in timing.ttft_parts(side.clips_latency)))


def _by_stage(found: Benchmark) -> list[rows.Row]:
    parts = {name: timing.ttft_parts(side.clips_latency) for name, side in found.named.items()}
    return [
        (name, *(cells.get(part, "none") for part in _stages(found)))
        for name, cells in parts.items()
        if cells
    ]


def _throughput(found: Benchmark) -> list[rows.Row]:
    cells = {name: timing.throughput(side) for name, side in found.named.items()}
    figures = dict.fromkeys(figure for side in cells.values() for figure in side)
    return [
        (name, figure, side[figure]) for figure in figures for name, side in cells.items() if figure in side
    ]


def _latency(name: str, side: Measurements) -> list[rows.Row]:
    protocols = {
        "real clips": side.clips_latency,
        "upstream": side.noise_latency,
        "transformers": side.transformers_latency,
    }
    return [
        (name, protocol, timing.spread(latency, "ttft"), timing.spread(latency, "tpot"))
        for protocol, latency in protocols.items()
        if latency is not None
    ]
