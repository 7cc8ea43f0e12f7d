"""``audiolm-compress data``: look through annotations and make new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from audiolm_compress.cli.data_convert import convert
from audiolm_compress.cli.data_prepare import prepare
from audiolm_compress.cli.options import Answering, give, json_option, quiet_option
from audiolm_compress.cli.subsets import sample, split

if TYPE_CHECKING:
    from audiolm_compress.data.findings import Finding

_GROUP = """\b
Examples:
  audiolm-compress data audit train.json test.json --html audit.html
  audiolm-compress data sample train.json --clips 256 --out calibration.json
  audiolm-compress data split all.json --parts train=0.9,test=0.1
  audiolm-compress data prepare librispeech LibriSpeech --split test-clean --out test.json
  audiolm-compress data convert train.json --out flac16
"""
_AUDIT = """\b
Examples:
  audiolm-compress data audit train.json --prefix /data/audio
  audiolm-compress data audit train.json test.json --html audit.html
  audiolm-compress data audit train.json --no-audio --findings findings.csv
"""


@click.group(epilog=_GROUP)
def data() -> None:
    """Look through annotations, and make new ones."""


data.add_command(convert)
data.add_command(prepare)
data.add_command(sample)
data.add_command(split)


@data.command(cls=Answering, epilog=_AUDIT)
@click.argument("annotations", nargs=-1, required=True, metavar="ANNOTATION...")
@click.option("--prefix", help="Folder of the audio paths. Default: the annotation's own.")
@click.option(
    "--audio/--no-audio",
    default=True,
    show_default=True,
    help="Read the header of every audio file; without, lengths are the entries' own `duration`.",
)
@click.option("--content", is_flag=True, help="Read every file as a whole, to find equal ones.")
@click.option(
    "--list",
    "listed",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Findings of each kind that are listed.",
)
@click.option(
    "--groups",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Sources and tasks in the table, the largest; the page shows more, the JSON all.",
)
@click.option("--findings", type=click.Path(dir_okay=False), help="Write every finding to this CSV file.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page with plots to this file.")
@click.option("--workers", type=click.IntRange(min=1), help="Files read at a time. Default: two a core.")
@json_option
@quiet_option
def audit(
    annotations: tuple[str, ...],
    prefix: str | None,
    audio: bool,
    content: bool,
    listed: int,
    groups: int,
    findings: str | None,
    html: str | None,
    workers: int | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Look through annotations of any length.

    Counts entries, lengths, sampling rates and texts by source and task; finds clips of 0 s, under 1 s and
    over 30 s, repeated entries, missing and unreadable files, and what several annotations (such as a
    training and a test set) share. Findings are no errors: the exit code is 0.
    """
    from contextlib import ExitStack
    from pathlib import Path

    from rich.console import Console

    from audiolm_compress.data.audit import audit as audited
    from audiolm_compress.data.targets import check_report
    from audiolm_compress.report.audit import lines, sections, to_json
    from audiolm_compress.report.html.audit import page
    from audiolm_compress.report.section import on_terminal

    for name in filter(None, (findings, html, json_file)):
        check_report(Path(name))
    with ExitStack() as stack:
        found = audited(
            annotations,
            prefix=prefix,
            audio=audio,
            content=content,
            listed=listed,
            workers=workers,
            found=_ignored if findings is None else stack.enter_context(_written(findings)),
            tell=lambda line: None if quiet else click.echo(line, err=True),
        )

    def show() -> None:
        console = Console(highlight=False)
        for made in on_terminal(sections(found, groups)):
            console.print(made)
        for line in lines(found, groups):
            console.print(f"- {line}", markup=False)

    give(json_file, lambda: to_json(found), show)
    if html is not None:
        try:
            Path(html).write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise click.FileError(html, hint=error.strerror) from error
        click.echo(f"Saved in {html}", err=True)


def _ignored(finding: Finding) -> None:
    """Without ``--findings`` those that are listed are enough."""


@contextmanager
def _written(name: str) -> Iterator[Callable[[Finding], None]]:
    """What writes findings as rows of a CSV file."""
    import csv
    from pathlib import Path

    try:
        file = Path(name).open("w", encoding="utf-8", newline="")  # noqa: SIM115
    except OSError as error:
        raise click.FileError(name, hint=error.strerror) from error
    with file:
        writer = csv.writer(file)
        writer.writerow(("annotation", "index", "path", "kind", "detail"))
        yield lambda one: writer.writerow((one.annotation, one.index, one.path, one.kind, one.detail))
