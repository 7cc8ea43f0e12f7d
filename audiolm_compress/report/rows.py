"""The cells of a comparison, in the one wording that terminal and Markdown share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audiolm_compress.benchmark.measurements import Latency, Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.report.goals import Goal
from audiolm_compress.report.step import Step

Row = tuple[str, ...]

HEADER: Row = ("", "weights MiB", "peak memory MiB", "TTFT ms", "TPOT ms", "WER", "CIDEr-D", "SPIDEr")
NO_SPICE = "SPICE not installed"
_MIB = 2**20


def main_row(name: str, side: Measurements) -> Row:
    """One model's figures; times are medians over real clips."""
    return (
        name,
        mib(side.weight_bytes),
        mib(side.peak_memory_bytes),
        milliseconds(side.ttft_s),
        milliseconds(side.tpot_s),
        score(side.wer),
        score(side.cider_d),
        spider(side),
    )


def change_row(baseline: Measurements, candidate: Measurements, found: Mapping[str, PairedResult]) -> Row:
    """Ratios of sizes and times, differences of scores."""
    return (
        "change",
        ratio(baseline.weight_bytes, candidate.weight_bytes),
        ratio(baseline.peak_memory_bytes, candidate.peak_memory_bytes),
        ratio(baseline.ttft_s, candidate.ttft_s),
        ratio(baseline.tpot_s, candidate.tpot_s),
        *(f"{found[name].difference:+.4f}" if name in found else "" for name in ("wer", "cider_d", "spider")),
    )


def noise_row(found: Mapping[str, PairedResult]) -> Row:
    """The 95 % interval of each score's difference, and the verdict."""
    cells = []
    for name in ("wer", "cider_d", "spider"):
        if name not in found:
            cells.append("")
            continue
        low, high = found[name].difference_interval.low, found[name].difference_interval.high
        verdict = "within noise" if found[name].within_noise else "beyond noise"
        cells.append(f"{low:+.4f} to {high:+.4f}, {verdict}")
    return ("95 % interval of the change", "", "", "", "", *cells)


def part_rows(baseline: Measurements, candidate: Measurements) -> list[Row]:
    """Weights by part of the model: name, before, after, ratio."""
    before, after = baseline.weight_bytes_by_part, candidate.weight_bytes_by_part
    return [
        (
            part,
            mib(before.get(part, 0)),
            mib(after.get(part, 0)),
            ratio(before.get(part, 0), after.get(part, 0)),
        )
        for part in dict.fromkeys([*before, *after])
    ]


def latency_rows(baseline: Measurements, candidate: Measurements) -> list[Row]:
    """Both protocols: protocol, figure, before, after, ratio of the medians."""
    rows = []
    for before, after in (
        (baseline.clips_latency, candidate.clips_latency),
        (baseline.noise_latency, candidate.noise_latency),
    ):
        for figure in ("ttft", "tpot"):
            rows.append((before.protocol, figure.upper(), spread(before, figure), spread(after, figure)))
    return rows


def spread(latency: Latency, figure: str) -> str:
    """Median and percentiles in ms."""
    times = getattr(latency, figure)
    if times is None:
        return "no further token"
    return f"{times.median * 1e3:.2f} ({times.p5 * 1e3:.2f} to {times.p95 * 1e3:.2f})"


def step_row(step: Step, before: int) -> Row:
    """Pass, what it did, weights after it, seconds."""
    after = sum(step.weight_bytes.values())
    return (step.name, step.summary, f"{mib(after)} ({ratio(before, after)})", f"{step.seconds:.1f}")


def goal_line(goal: Goal) -> str:
    """Met or missed, with both numbers."""
    reached = "not measured" if goal.reached is None else f"{goal.reached:+.4f}"
    if goal.name.endswith("_ratio") and goal.reached is not None:
        reached = f"{goal.reached:.3f}"
    note = f" ({goal.note})" if goal.note else ""
    return f"{'met' if goal.met else 'MISSED'}: {goal.name} {reached}, asked for {goal.limit}{note}"


def notes(baseline: Measurements, candidate: Measurements, steps: Sequence[Step]) -> list[str]:
    """Everything that was counted out, fallen back from or left undone; what both sides share stands once."""
    counted = ("clips", "padded", "truncated", "skipped")
    found = ["test clips: " + ", ".join(f"{baseline.counts.get(name, 0)} {name}" for name in counted)]
    found += [
        f"pass {index}, {step.name}: {note}" for index, step in enumerate(steps, 1) for note in step.notes
    ]
    found += [
        f"pass {index}, {step.name} changed nothing: {step.summary}"
        for index, step in enumerate(steps, 1)
        if not step.changed
    ]
    for note in dict.fromkeys([*baseline.notes, *candidate.notes]):
        sides = [
            name for name, side in (("baseline", baseline), ("candidate", candidate)) if note in side.notes
        ]
        found.append(note if len(sides) == 2 else f"{sides[0]}: {note}")
    for name, side in (("baseline", baseline), ("candidate", candidate)):
        kernels = side.environment.get("kernels")
        if kernels:
            listed = ", ".join(f"{count} x {kernel}" for kernel, count in kernels.items())
            found.append(f"kernels of the {name}: {listed}")
    if candidate.spider is None and candidate.spider_note:
        found.append(candidate.spider_note)
    found.append(f"peak memory: {candidate.memory.method}")
    return found


def mib(count: int) -> str:
    """Bytes as MiB."""
    return f"{count / _MIB:.2f}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as ms."""
    return "n/a" if seconds is None else f"{seconds * 1e3:.2f}"


def score(value: float | None) -> str:
    """A score, or that there is none."""
    return "n/a" if value is None else f"{value:.4f}"


def spider(side: Measurements) -> str:
    """SPIDEr, or why there is none; CIDEr-D is never shown in its place."""
    if side.spider is None and side.cider_d is not None:
        return NO_SPICE
    return score(side.spider)


def ratio(before: float | None, after: float | None) -> str:
    """``after / before``."""
    return "n/a" if not before or after is None else f"{after / before:.3f}x"
