"""``audiolm-compress compare``: finished runs in one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from audiolm_compress.cli.options import PRINTED, Answering, give, json_option

EXAMPLES = """\b
Examples:
  audiolm-compress compare out/*
  audiolm-compress compare out/search --sort wer --published
  audiolm-compress compare out/a bench/bench.json --markdown - > runs.md
  audiolm-compress compare out --csv runs.csv --html runs.html
"""


def _file_option(name: str, words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        f"--{name}",
        type=click.Path(dir_okay=False, allow_dash=True),
        help=f"{words}; - prints it in place of the tables.",
    )


@click.command(cls=Answering, epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--sort",
    default="weights",
    show_default=True,
    help="Best first by weights, peak_memory, ttft or tpot (ratios to the run's own baseline), by a score "
    "such as wer or cider_d, by name, or as given.",
)
@click.option("--columns", metavar="NAME,...", help="Costs and scores to show. Default: all there are.")
@click.option(
    "--published",
    is_flag=True,
    help="Add what the hackathon's teams published, on other hardware, as reference.",
)
@_file_option("markdown", "Write the tables as Markdown to this file")
@_file_option("csv", "Write plain numbers to this file")
@_file_option("html", "Write a page with plots to this file")
@json_option
def compare(
    runs: tuple[str, ...],
    sort: str,
    columns: str | None,
    published: bool,
    markdown: str | None,
    csv: str | None,
    html: str | None,
    json_file: str | None,
) -> None:
    """Put finished runs into one table.

    RUN is the folder of a run (report.json) or benchmark (bench.json), such a file, or a folder of runs, as a
    search leaves them. Every run is shown against its own baseline; what the runs do not have in common is
    listed, and scores on different test clips are marked as not comparable.
    """
    asked = {"markdown": markdown, "csv": csv, "html": html}
    printed = sum(file == PRINTED for file in (*asked.values(), json_file))
    if printed > 1:
        raise click.UsageError("only one of --markdown, --csv, --html and --json can be printed")
    from pathlib import Path

    from rich.console import Console

    from audiolm_compress.report.compare import compare as compared

    names = None if columns is None else [name.strip() for name in columns.split(",")]
    found = compared(runs, sort=sort, columns=names, published=published)
    forms = {"markdown": found.to_markdown, "csv": found.to_csv, "html": found.to_html}
    give(json_file, found.to_json, lambda: None if printed else Console(highlight=False).print(found))
    for form, file in asked.items():
        if file == PRINTED:
            click.echo(forms[form](), nl=False)
        elif file is not None:
            text = forms[form]()
            try:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                Path(file).write_text(text, encoding="utf-8")
            except OSError as error:
                raise click.FileError(file, hint=error.strerror) from error
            click.echo(f"Saved in {file}", err=True)
