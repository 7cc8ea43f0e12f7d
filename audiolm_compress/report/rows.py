"""The cells of a comparison, in the one wording that terminal and Markdown share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audiolm_compress.measurement.measurements import Latency, Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.differences import HOW_NOISE_IS_JUDGED, differences
from audiolm_compress.report.goals import Goal
from audiolm_compress.report.step import Step

Row = tuple[str, ...]

# Headers and cells are broken by hand, so that the table fits a terminal of 80 columns.
HEADER: Row = ("", "weights\nMiB", "peak mem.\nMiB", "TTFT\nms", "TPOT\nms", "WER", "CIDEr-D", "SPIDEr")
MAIN_SCORES = ("wer", "cider_d", "spider")
NO_SPICE = "SPICE not\ninstalled"
MISSED: Row = ("goal", "asked for", "reached", "missed by", "")
_MIB = 2**20


def main_row(name: str, side: Measurements) -> Row:
    """One model's figures; times are medians over real clips."""
    return (
        name,
        mib(side.weight_bytes),
        mib(side.peak_memory_bytes),
        milliseconds(side.ttft_s),
        milliseconds(side.tpot_s),
        *(score(side, name) for name in MAIN_SCORES),
    )


def change_row(baseline: Measurements, candidate: Measurements, found: Mapping[str, PairedResult]) -> Row:
    """Ratios of sizes and times, differences of scores."""
    return (
        "change",
        ratio(baseline.weight_bytes, candidate.weight_bytes),
        ratio(baseline.peak_memory_bytes, candidate.peak_memory_bytes),
        ratio(baseline.ttft_s, candidate.ttft_s),
        ratio(baseline.tpot_s, candidate.tpot_s),
        *(f"{found[name].difference:+.4f}" if name in found else "" for name in MAIN_SCORES),
    )


def noise_row(found: Mapping[str, PairedResult]) -> Row:
    """Whether each score's difference is more than chance."""
    verdicts = {name: "within" if result.within_noise else "beyond" for name, result in found.items()}
    return ("noise", "", "", "", "", *(verdicts.get(name, "") for name in MAIN_SCORES))


def noise_lines(found: Mapping[str, PairedResult]) -> list[str]:
    """The verdicts in full."""
    lines = []
    for name, result in found.items():
        low, high = result.difference_interval.low, result.difference_interval.high
        verdict = "within noise" if result.within_noise else "beyond noise"
        lines.append(
            f"{SCORES[name].title} {result.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, "
            f"{result.clips} clips: {verdict}"
        )
    return lines


def further_lines(further: Mapping[str, Measurements], candidate: Measurements) -> list[str]:
    """The candidate against the baseline's other columns, which no goal looks at."""
    return [
        f"candidate against {name}: {line}"
        for name, side in further.items()
        for line in noise_lines(differences(side, candidate))
    ]


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
    """Both protocols: protocol, figure, before, after."""
    protocols: list[tuple[str, Latency | None, Latency | None]] = [
        ("real clips", baseline.clips_latency, candidate.clips_latency),
        ("upstream", baseline.noise_latency, candidate.noise_latency),
    ]
    if baseline.transformers_latency is not None or candidate.transformers_latency is not None:
        protocols.append(("transformers", baseline.transformers_latency, candidate.transformers_latency))
    return [
        (protocol, figure.upper(), spread(before, figure), spread(after, figure))
        for protocol, before, after in protocols
        for figure in ("ttft", "tpot")
    ]


def runtime_lines(baseline: Measurements, candidate: Measurements) -> list[str]:
    """What the runtime gave and what compression gave, from transformers' generate to the candidate."""
    start = baseline.transformers_latency
    if start is None:
        return []
    lines = []
    for figure in ("ttft", "tpot"):
        times = [getattr(side, figure) for side in (start, baseline.clips_latency, candidate.clips_latency)]
        if any(time is None for time in times):
            continue
        theirs, ours, after = (time.median for time in times)
        lines.append(
            f"{figure.upper()} from the baseline in transformers' generate to the candidate here: "
            f"{milliseconds(theirs)} to {milliseconds(after)} ms, {ratio(theirs, after)}, "
            f"of which the runtime {ratio(theirs, ours)} and compression {ratio(ours, after)}"
        )
    return lines


def spread(latency: Latency | None, figure: str) -> str:
    """Median and percentiles in ms."""
    if latency is None:
        return "not timed"
    times = getattr(latency, figure)
    if times is None:
        return "no further token"
    return f"{times.median * 1e3:.2f} ({times.p5 * 1e3:.2f} to {times.p95 * 1e3:.2f})"


def step_row(step: Step, before: int) -> Row:
    """Pass, what it did, weights after it, seconds."""
    after = sum(step.weight_bytes.values())
    return (step.name, step.summary, f"{mib(after)} ({ratio(before, after)})", f"{step.seconds:.1f}")


def met_line(goal: Goal) -> str:
    """A goal that is met, with both numbers."""
    note = f" ({goal.note})" if goal.note else ""
    return f"met: {goal.name} {reached(goal)}, asked for {goal.limit}{note}"


def missed_rows(goals: Sequence[Goal]) -> list[Row]:
    """What was missed: goal, asked for, reached, by how much, how it was judged."""
    return [
        (
            goal.name,
            str(goal.limit),
            reached(goal),
            _distance(goal),
            goal.note,
        )
        for goal in goals
        if not goal.met
    ]


def _distance(goal: Goal) -> str:
    if goal.reached is None or isinstance(goal.limit, str):
        return ""
    return f"{goal.reached - goal.limit:+.4f}"


def reached(goal: Goal) -> str:
    """What was measured, as ratios and differences are written."""
    if goal.reached is None:
        return "not measured"
    return f"{goal.reached:.3f}" if goal.name.endswith(("_ratio", "_gib")) else f"{goal.reached:+.4f}"


def notes(
    baseline: Measurements,
    candidate: Measurements,
    found: Mapping[str, PairedResult],
    steps: Sequence[Step],
    of_run: Sequence[str],
) -> list[str]:
    """How it was measured, and all that was left out, fallen back from or left undone."""
    sides = {"baseline": baseline, "candidate": candidate}
    counts = baseline.counts
    lines = noise_lines(found)
    if found:
        lines.append(HOW_NOISE_IS_JUDGED)
    lines.append(
        f"clips: {counts.get('clips', 0)} measured, {counts.get('padded', 0)} padded to 1 s, "
        f"{counts.get('truncated', 0)} cut at 30 s, {counts.get('skipped', 0)} unusable and skipped"
    )
    lines.append(f"latency on real clips (used above): {baseline.clips_latency.protocol}")
    lines.append(f"latency in the upstream protocol: {baseline.noise_latency.protocol}")
    lines += runtime_lines(baseline, candidate)
    lines.append(f"peak memory: {candidate.memory.method}")
    lines += unscored_lines(candidate)
    for name, side in sides.items():
        if kernels := side.environment.get("kernels"):
            listed = ", ".join(f"{kernel} x {count}" for kernel, count in kernels.items())
            lines.append(f"kernels of the {name}: {listed}")
    for note in dict.fromkeys([*baseline.notes, *candidate.notes]):
        of = [name for name, side in sides.items() if note in side.notes]
        lines.append(note if len(of) == 2 else f"{of[0]}: {note}")
    lines += of_run
    for index, step in enumerate(steps, start=1):
        if not step.changed:
            lines.append(f"pass {index}, {step.name}, changed nothing: {step.summary}")
        lines += [f"pass {index}, {step.name}: {note}" for note in step.notes]
    return lines


def mib(count: int) -> str:
    """Bytes as MiB."""
    return f"{count / _MIB:.2f}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as ms."""
    return "n/a" if seconds is None else f"{seconds * 1e3:.2f}"


def score(side: Measurements, name: str) -> str:
    """A score, or that there is none; CIDEr-D is never shown in the place of SPIDEr."""
    value = side.score(name)
    if value is None:
        return NO_SPICE if side.unscored.get(name, "").startswith("SPICE") else "n/a"
    return f"{value:.4f}"


def unscored_lines(side: Measurements) -> list[str]:
    """Why scores are missing; those that miss the same thing share a line."""
    missing: dict[str, list[str]] = {}
    for name, reason in side.unscored.items():
        missing.setdefault(reason, []).append(SCORES[name].title)
    return [f"{', '.join(titles)}: {reason}" for reason, titles in missing.items()]


def ratio(before: float | None, after: float | None) -> str:
    """``after / before``."""
    return "n/a" if not before or after is None else f"{after / before:.3f}x"
