"""The cells of a comparison, in the one wording that terminal and Markdown share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.report.differences import (
    HOW_INTERVALS_ARE_MADE,
    HOW_NOISE_IS_JUDGED,
    differences,
    verdict,
)
from audiolm_compress.report.goals import Goal
from audiolm_compress.report.quality import long_figure, noise, p_value, short_figure
from audiolm_compress.report.step import Step

Row = tuple[str, ...]

_MAIN_SCORES = ("wer", "cider_d", "spider", "qa_match")  # one or two for each kind of clips
_MOST_SCORES = 3
NO_SPICE = "SPICE not\ninstalled"
MISSED: Row = ("goal", "asked for", "reached", "missed by", "")
_MIB = 2**20


def main_scores(*sides: Measurements) -> tuple[str, ...]:
    """The scores of the main table: at most three, of the kinds of clips that there are."""
    names = [name for name in _MAIN_SCORES if any(name in {*s.scores, *s.unscored} for s in sides)]
    if len(names) > _MOST_SCORES:
        names.remove("cider_d" if any("spider" in side.scores for side in sides) else "spider")
    return tuple(names)


def header(names: Sequence[str]) -> Row:
    """Of the main table with these scores; broken by hand, so that it fits a terminal of 80 columns."""
    sizes = ("", "weights\nMiB", "peak\nMiB", "TTFT\nms", "TPOT\nms")
    return (*sizes, *(SCORES[name].title for name in names))


def main_row(name: str, side: Measurements, names: Sequence[str], *, wide: bool = False) -> Row:
    """One model's figures; times are medians over real clips, scores have their intervals below them.

    Args:
        name: of the model.
        side: its measurements.
        names: of the scores.
        wide: there is room for intervals with all digits.
    """
    return (
        name,
        mib(side.weight_bytes),
        mib(side.peak_memory_bytes),
        milliseconds(side.ttft_s),
        milliseconds(side.tpot_s),
        *(score(side, name, wide) for name in names),
    )


def change_row(
    baseline: Measurements,
    candidate: Measurements,
    found: Mapping[str, PairedResult],
    names: Sequence[str],
) -> Row:
    """Ratios of sizes and times, differences of scores."""
    return (
        "change",
        ratio(baseline.weight_bytes, candidate.weight_bytes),
        ratio(baseline.peak_memory_bytes, candidate.peak_memory_bytes),
        ratio(baseline.ttft_s, candidate.ttft_s),
        ratio(baseline.tpot_s, candidate.tpot_s),
        *(f"{found[name].difference:+.4f}" if name in found else "" for name in names),
    )


def noise_row(found: Mapping[str, PairedResult], names: Sequence[str]) -> Row:
    """Whether each score's difference is more than chance."""
    verdicts = {name: noise(result) for name, result in found.items()}
    return ("noise", "", "", "", "", *(verdicts.get(name, "") for name in names))


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
    lines = [HOW_INTERVALS_ARE_MADE, HOW_NOISE_IS_JUDGED] if found else []
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
            lines.append(f"{name}: kernels {listed}")
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


def score(side: Measurements, name: str, wide: bool) -> str:
    """A score, or that there is none; CIDEr-D is never shown in the place of SPIDEr."""
    found = side.scores.get(name)
    if found is None:
        return NO_SPICE if side.unscored.get(name, "").startswith("SPICE") else "n/a"
    return long_figure(found) if wide else short_figure(found)


def unscored_lines(side: Measurements) -> list[str]:
    """Why scores are missing; those that miss the same thing share a line."""
    missing: dict[str, list[str]] = {}
    for name, reason in side.unscored.items():
        missing.setdefault(reason, []).append(SCORES[name].title)
    return [f"{', '.join(titles)}: {reason}" for reason, titles in missing.items()]


def ratio(before: float | None, after: float | None) -> str:
    """``after / before``."""
    return "n/a" if not before or after is None else f"{after / before:.3f}x"
