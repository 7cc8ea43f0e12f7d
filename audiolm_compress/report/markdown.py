"""The report as a document, and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from audiolm_compress.measurement.measurements import ClipResult, Measurements
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.recipe import Recipe
from audiolm_compress.report import introduction, quality, rows, timing
from audiolm_compress.report.step import Step
from audiolm_compress.report.table import step_rows
from audiolm_compress.salmonn.hub import is_hub_id

if TYPE_CHECKING:
    from audiolm_compress.report.report import Report

_PIPELINE = "audio-text-to-text"
_SAMPLES = 5  # clips of each task whose answers are printed


def render(report: Report) -> str:
    """The whole report: figures, passes with every module, goals, samples, machine, how to repeat it."""
    baseline, candidate = report.baseline, report.candidate
    sections = [
        f"# Compression report: {introduction.title(report)}",
        introduction.lead(report),
        main_table(report),
        "## Scores (95 % interval)",
        table(quality.HEADER, quality.quality_rows(baseline, candidate, report.differences)),
        *_groups(report),
        "## Weights by part, MiB",
        table(("part", "baseline", "candidate", "ratio"), rows.part_rows(baseline, candidate)),
        "## Latency in ms, median (5 % to 95 %)",
        table(("protocol", "figure", "baseline", "candidate"), timing.latency_rows(baseline, candidate)),
        *_throughput(report),
        "## How it was measured",
        bullets(
            [
                *rows.notes(baseline, candidate, report.differences, report.steps, report.notes),
                *rows.further_lines(report.further, candidate),
            ]
        ),
    ]
    if report.goals:
        sections += ["## Goals", bullets(rows.met_line(goal) for goal in report.goals if goal.met)]
    if not report.goals_met:
        sections += ["Missed:", table(rows.MISSED, rows.missed_rows(report.goals))]
    if report.steps:
        sections += ["## Passes", table(("pass", "what it did", "weights MiB", "seconds"), step_rows(report))]
        sections += [_step(index, step) for index, step in enumerate(report.steps, start=1)]
    sections += ["## Sample answers", *samples({"baseline": baseline, "candidate": candidate})]
    sections += ["## Environment", bullets(environment(report.environment))]
    sections += ["## Do it again", f"```sh\n{introduction.command(report)}\n```"]
    return "\n\n".join(section for section in sections if section) + "\n"


def model_card(report: Report, recipe: Recipe) -> str:
    """README.md of the candidate's folder: what it is, how it was made, how it is used, how good it is."""
    passes = ", ".join(step.name for step in report.steps)
    metadata = yaml.safe_dump(card_metadata(report, recipe), sort_keys=False, allow_unicode=True)
    return f"""---
{metadata}---

# {recipe.name}

{recipe.description or "A compressed SALMONN audio language model."}

Made by audiolm-compress {report.environment["audiolm_compress"]} from the baseline `{report.baseline.source}`
by these passes: {passes}. `recipe.yaml` in this folder is the whole recipe; `report.md` tells what every pass
did and how the figures were measured.

{main_table(report)}

Use it from its folder:

    audiolm-compress transcribe speech.wav --model FOLDER
    audiolm-compress caption street.wav --model FOLDER
    audiolm-compress ask clip.wav --prompt "..." --model FOLDER

    from audiolm_compress import load_model
    model = load_model("FOLDER")

The licence and the limits of the baseline apply to this model as well.
"""


def card_metadata(report: Report, recipe: Recipe) -> dict[str, Any]:
    """What the Hugging Face hub reads of a model card, but the licence, which no checkpoint tells."""
    candidate = report.candidate
    metrics = [
        {"type": name, "name": SCORES[name].title, "value": round(score.value, 4)}
        for name, score in candidate.scores.items()
    ]
    task = {"type": _PIPELINE, "name": "recognition and captioning"}
    data = {"type": "custom", "name": f"{candidate.counts['clips']} test clips, see report.md"}
    results = [{"task": task, "dataset": data, "metrics": metrics}] if metrics else []
    source = report.baseline.source
    return {
        "library_name": "audiolm-compress",
        "pipeline_tag": _PIPELINE,
        **({"base_model": source.partition("@")[0]} if is_hub_id(source) else {}),
        "tags": ["audiolm-compress", "salmonn", "audio", *dict.fromkeys(step.name for step in report.steps)],
        **({"model-index": [{"name": recipe.name, "results": results}]} if results else {}),
    }


def main_table(report: Report) -> str:
    """Both models, the change and how sure it is."""
    names = rows.main_scores(report.baseline, report.candidate)
    sides = {"baseline": report.baseline, **report.further, "candidate": report.candidate}
    body = [
        *(rows.main_row(name, side, names, wide=True) for name, side in sides.items()),
        rows.change_row(report.baseline, report.candidate, report.differences, names),
        rows.noise_row(report.differences, names),
    ]
    return table(rows.header(names), body)


def table(header: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def _throughput(report: Report) -> list[str]:
    body = timing.throughput_rows(report.baseline, report.candidate)
    header = ("figure", "baseline", "candidate")
    return ["## Throughput", table(header, body)] if body else []


def _groups(report: Report) -> Iterable[str]:
    """A table for each trait that groups of clips have in common."""
    tables = quality.group_rows(report.baseline, report.candidate)
    for trait, body in tables.items():
        yield f"### By {trait}\n\n" + table((trait, *quality.HEADER), body)
    if tables:
        fewest = quality.FEWEST_JUDGED
        yield f"Groups of fewer than {fewest} clips are too few to tell a difference from noise."


def _step(index: int, step: Step) -> str:
    settings = ", ".join(f"{name}: {value}" for name, value in step.settings.items() if name != "pass")
    figures = ", ".join(f"{name}: {_cell(value)}" for name, value in step.figures.items())
    lines = [f"### {index}. {step.name}", step.summary]
    lines += [f"Settings: {settings}"] if settings else []
    lines += [f"Figures: {figures}"] if figures else []
    lines += [_module_table(step.modules)] if step.modules else []
    return "\n\n".join(lines)


def _module_table(modules: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in modules for name in row))
    return table(columns, ([row.get(name, "") for name in columns] for row in modules))


def environment(values: Mapping[str, Any]) -> Iterable[str]:
    """Machine, versions and seeds, a line each."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
        yield f"{name.replace('_', ' ')}: {value}"


def samples(sides: Mapping[str, Measurements]) -> Iterable[str]:
    """The first clips of each task with the answers of all models."""
    by_task: dict[str, list[tuple[ClipResult, ...]]] = {}
    for clips in zip(*(side.clips for side in sides.values()), strict=True):
        by_task.setdefault(clips[0].task, []).append(clips)
    for task, found in by_task.items():
        body = [
            (
                clips[0].testset_id,
                clips[0].references[0] if clips[0].references else "",
                *(c.text for c in clips),
            )
            for clips in found[:_SAMPLES]
        ]
        yield f"### {task}\n\n" + table(("clip", "reference", *sides), body)


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
