"""``audiolm-compress run``: apply a recipe and report."""

from __future__ import annotations

import click

from audiolm_compress.cli.completion import complete_recipes
from audiolm_compress.cli.options import (
    PRINTED,
    Answering,
    device_option,
    give,
    json_option,
    overrides_option,
    quiet_option,
    threads_option,
)

GOALS_MISSED = 3

EXAMPLES = """\b
Examples:
  audiolm-compress run recipes/gemma2_4bit.yaml
  audiolm-compress run recipes/gemma2_4bit.yaml --baseline salmonn.yaml --out out/mine
  audiolm-compress run recipes/gemma2_4bit.yaml --json > report.json
  audiolm-compress run recipes/gemma2_4bit.yaml --set passes.6.bits=3 --set passes.6.group_size=16

\b
Several GPUs (or, without one, several processes) that share calibration,
training and the answers to the test clips; the first alone times the models:
  accelerate launch --multi_gpu --num_processes 4 -m audiolm_compress run RECIPE
The launcher allows each process one CPU thread, unless --threads is given.
"""


@click.command(cls=Answering, epilog=EXAMPLES)
@click.argument("recipe", shell_complete=complete_recipes)
@click.option(
    "--baseline", help="Checkpoint in place of the recipe's: upstream YAML, saved folder, hub id or `tiny`."
)
@click.option("--out", help="Folder for the new model and its report. Default: out/<recipe name>.")
@json_option
@quiet_option
@device_option
@overrides_option
@threads_option
@click.option("--replace", is_flag=True, help="The folder may hold another recipe's result, or any model.")
@click.option("--no-resume", is_flag=True, help="Take nothing from a run that was cut off, and keep nothing.")
def run(
    recipe: str,
    baseline: str | None,
    out: str | None,
    json_file: str | None,
    quiet: bool,
    device: str | None,
    overrides: tuple[str, ...],
    replace: bool,
    no_resume: bool,
) -> int:
    """Compress a model by a recipe and report.

    Applies RECIPE (a YAML file) to its baseline, measures both models and prints the comparison.

    The folder written holds the smaller model, the resolved recipe, report.json, report.md, report.html and
    a model card. A run that was cut off goes on when the same command is given again.
    """
    from rich.console import Console

    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.pipeline import apply_recipe
    from audiolm_compress.training.shards import disband, processes

    main = processes().is_main_process
    with shown_progress(quiet) as progress:
        result = apply_recipe(
            recipe,
            baseline=baseline,
            out=out,
            device=device,
            overrides=overrides,
            progress=progress,
            resume=not no_resume,
            replace=replace,
        )
    disband()
    if not main:
        return 0
    report = result.report
    give(json_file, report.to_json, lambda: None if quiet else Console().print(report))
    click.echo(f"Saved in {result.path}", err=json_file == PRINTED)
    return 0 if report.goals_met else GOALS_MISSED
