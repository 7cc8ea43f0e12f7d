"""The cells of a comparison, in the one wording that terminal and Markdown share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audiolm_compress.measurement.measurements import Latency, Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.differences import (
    HOW_NOISE_IS_JUDGED,
    HOW_VERDICTS_ARE_REACHED,
    differences,
    verdict,
)
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
    return [
        f"{SCORES[name].title} {result.difference:+.4f}, 95 % interval {between(result)}, "
        f"p {p_value(result)}, {result.clips} clips: {verdict(name, result)}"
        for name, result in found.items()
    ]


def between(found: PairedResult) -> str:
    """The interval of a difference."""
    return f"{found.difference_interval.low:+.4f} to {found.difference_interval.high:+.4f}"


def p_value(found: PairedResult) -> str:
    """To two digits, and from below where flips were drawn and none was as extreme."""
    return f"{found.p_value:.2g}" if found.p_value >= 0.001 else "< 0.001"


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
    """All protocols: protocol, figure, before, after; what TTFT is made of on real clips alone."""
    protocols: list[tuple[str, Latency | None, Latency | None]] = [
        ("real clips", baseline.clips_latency, candidate.clips_latency),
        ("upstream", baseline.noise_latency, candidate.noise_latency),
    ]
    if baseline.transformers_latency is not None or candidate.transformers_latency is not None:
        protocols.append(("transformers", baseline.transformers_latency, candidate.transformers_latency))
    rows: list[Row] = []
    for protocol, before, after in protocols:
        rows.append((protocol, "TTFT", spread(before, "ttft"), spread(after, "ttft")))
        if before is baseline.clips_latency:
            rows += ttft_part_rows(baseline.clips_latency, candidate.clips_latency)
        rows.append((protocol, "TPOT", spread(before, "tpot"), spread(after, "tpot")))
    return rows


def ttft_part_rows(before: Latency, after: Latency) -> list[Row]:
    """What TTFT is made of, medians: "", part, before, after."""
    cells = ttft_parts(before), ttft_parts(after)
    return [
        ("", f"- {part}", *(side.get(part, "none") for side in cells))
        for part in dict.fromkeys([*cells[0], *cells[1]])
    ]


def ttft_parts(latency: Latency) -> dict[str, str]:
    """Medians in ms of what TTFT is made of."""
    return {part.replace("_", " "): milliseconds(times.median) for part, times in latency.parts.items()}


def throughput_rows(baseline: Measurements, candidate: Measurements) -> list[Row]:
    """What is not in ms: figure, before, after; only what was measured of one of them."""
    before, after = throughput(baseline), throughput(candidate)
    return [
        (name, before.get(name, "n/a"), after.get(name, "n/a")) for name in dict.fromkeys([*before, *after])
    ]


def throughput(side: Measurements) -> dict[str, str]:
    """What was measured of these: real-time factor, energy, KV cache, batches."""
    cells = {}
    latency, cache = side.clips_latency, side.memory.kv_cache_bytes_per_token
    if (factor := latency.real_time_factor) is not None:
        cells["computing, s per s of audio"] = f"{factor.median:.3g} ({factor.p5:.3g} to {factor.p95:.3g})"
    if latency.energy_joules is not None:
        cells["energy, J per clip"] = f"{latency.energy_joules:.3g}"
    if cache is not None:
        cells["KV cache, bytes per token"] = str(cache)
    for batch in side.batches:
        step = None if batch.step is None else batch.step.median
        name = f"{batch.size} clips at once" if batch.size > 1 else "1 clip at once"
        cells[f"{name}: TTFT, ms"] = milliseconds(batch.ttft.median)
        cells[f"{name}: further step, ms"] = milliseconds(step)
        cells[f"{name}: clips per s"] = f"{batch.clips_per_second:.3g}"
    return cells


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
    lines = noise_lines(found)
    if found:
        lines += [HOW_NOISE_IS_JUDGED, HOW_VERDICTS_ARE_REACHED]
    lines += protocol_lines(baseline)
    lines += runtime_lines(baseline, candidate)
    lines += side_lines({"baseline": baseline, "candidate": candidate})
    lines += of_run
    for index, step in enumerate(steps, start=1):
        if not step.changed:
            lines.append(f"pass {index}, {step.name}, changed nothing: {step.summary}")
        lines += [f"pass {index}, {step.name}: {note}" for note in step.notes]
    return lines


def protocol_lines(side: Measurements) -> list[str]:
    """What was measured, which is the same for all models of a comparison."""
    counts = side.counts
    return [
        f"clips: {counts.get('clips', 0)} measured, {counts.get('padded', 0)} padded to 1 s, "
        f"{counts.get('truncated', 0)} cut at 30 s, {counts.get('skipped', 0)} unusable and skipped",
        f"latency on real clips (used above): {side.clips_latency.protocol}",
        f"latency in the upstream protocol: {side.noise_latency.protocol}",
    ]


def side_lines(sides: Mapping[str, Measurements]) -> list[str]:
    """How memory was counted, scores that are missing, kernels, and what measuring noted of which model."""
    lines = [f"peak memory: {method}" for method in dict.fromkeys(s.memory.method for s in sides.values())]
    lines += dict.fromkeys(line for side in sides.values() for line in unscored_lines(side))
    for name, side in sides.items():
        if kernels := side.environment.get("kernels"):
            listed = ", ".join(f"{kernel} x {count}" for kernel, count in kernels.items())
            lines.append(f"kernels of the {name}: {listed}")
    for note in dict.fromkeys(note for side in sides.values() for note in side.notes):
        of = [name for name, side in sides.items() if note in side.notes]
        lines.append(note if len(of) == len(sides) else f"{', '.join(of)}: {note}")
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
