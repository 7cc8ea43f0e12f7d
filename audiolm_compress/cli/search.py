"""``audiolm-compress search``: explore the choices of a recipe."""

from __future__ import annotations

import click

from audiolm_compress.cli.completion import complete_recipes
from audiolm_compress.cli.options import (
    Answering,
    device_option,
    give,
    json_option,
    overrides_option,
    quiet_option,
    threads_option,
)
from audiolm_compress.cli.run import GOALS_MISSED

INTERRUPTED = 130

EXAMPLES = """\b
Examples:
  audiolm-compress search recipes/search_gemma2.yaml
  audiolm-compress search recipes/search_gemma2.yaml --trials 12 --objectives weights,wer
  audiolm-compress search recipes/search_gemma2.yaml --baseline salmonn.yaml --out out/mine

\b
The same command again, here or on another machine that shares the output
folder, works on the same study or goes on with an interrupted one. Where
SQLite cannot lock files (many network file systems), give
--storage FILE.journal or a database's URL.
"""


@click.command(cls=Answering, epilog=EXAMPLES)
@click.argument("recipe", shell_complete=complete_recipes)
@click.option(
    "--baseline", help="Checkpoint in place of the recipe's: upstream YAML, saved folder, hub id or `tiny`."
)
@click.option("--out", help="Folder of the study. Default: out/<recipe name>.")
@click.option("--trials", type=click.IntRange(min=1), help="Configurations to measure in all.")
@click.option("--objectives", metavar="NAME,...", help="What trials are compared by.")
@click.option("--storage", help="Database URL or file of the study. Default: study.db in its folder.")
@click.option("--keep-models", is_flag=True, help="Keep the weights of all trials, not of the front alone.")
@json_option
@quiet_option
@device_option
@overrides_option
@threads_option
def search(
    recipe: str,
    baseline: str | None,
    out: str | None,
    trials: int | None,
    objectives: str | None,
    storage: str | None,
    keep_models: bool,
    json_file: str | None,
    quiet: bool,
    device: str | None,
    overrides: tuple[str, ...],
) -> int:
    """Explore the choices that a recipe leaves open.

    Runs RECIPE (a YAML file with {choose: [...]} in the place of values) once for each configuration that is
    tried, and prints the Pareto front. Of the trials that meet the recipe's goals, the best by the first
    objective is written as a recipe to run; without one the exit code is 3.

    The folder written holds pareto.json, pareto.svg, best.yaml, and every trial's report in trials/.
    """
    from rich.console import Console

    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.search import search_recipe

    if trials is not None:
        overrides += (f"search.trials={trials}",)
    if objectives is not None:
        overrides += (f"search.objectives=[{objectives}]",)
    try:
        with shown_progress(quiet) as progress:
            results = search_recipe(
                recipe,
                baseline=baseline,
                out=out,
                device=device,
                overrides=overrides,
                storage=storage,
                keep_models=keep_models,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo("interrupted; measured trials are kept, the same command goes on", err=True)
        return INTERRUPTED
    give(json_file, results.to_json, lambda: Console().print(results.why if quiet else results))
    return GOALS_MISSED if results.best is None else 0
