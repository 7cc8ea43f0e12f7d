"""``audiolm-compress data sample`` and ``split``: annotations made of one annotation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from audiolm_compress.cli.options import Answering, Command, give, json_option, quiet_option

if TYPE_CHECKING:
    from audiolm_compress.data.sample import Sample
    from audiolm_compress.data.split import Split
    from audiolm_compress.data.strata import OnBad

_SAMPLE = """\b
Examples:
  audiolm-compress data sample train.json --clips 256 --out calibration.json
  audiolm-compress data sample train.json --clips 64 --by none --out random.json
"""
_SPLIT = """\b
Examples:
  audiolm-compress data split all.json --parts train=0.9,test=0.1
  audiolm-compress data split all.json --parts train=0.8,valid=0.1,test=0.1 --group speaker
"""


def _subset_options(command: Command) -> Command:
    for option in (
        click.option(
            "--by",
            default="task,source",
            show_default=True,
            help="Keys that tell kinds of entries apart; `source` is the first folder of the path where an "
            "entry has none. `none`: all are alike.",
        ),
        click.option("--seed", default=0, show_default=True, help="Another seed chooses other entries."),
        click.option(
            "--prefix",
            help="Folder of the audio paths, of what is written too. Default: the annotation's own.",
        ),
        click.option(
            "--on-bad",
            type=click.Choice(["stop", "skip"]),
            default="stop",
            show_default=True,
            help="What to do where entries cannot be used; what is skipped is told.",
        ),
        click.option("--replace", is_flag=True, help="Replace files that are there."),
        json_option,
        quiet_option,
    )[::-1]:
        command = option(command)
    return command


@click.command(cls=Answering, epilog=_SAMPLE)
@click.argument("annotation")
@click.option("--clips", type=click.IntRange(min=1), required=True, help="How many entries.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="Annotation to write.")
@_subset_options
@click.option(
    "--audio/--no-audio",
    default=True,
    show_default=True,
    help="Read the header of every file that may be drawn.",
)
def sample(
    annotation: str,
    clips: int,
    out: str,
    by: str,
    seed: int,
    prefix: str | None,
    on_bad: OnBad,
    replace: bool,
    json_file: str | None,
    quiet: bool,
    audio: bool,
) -> None:
    """Draw a calibration set from an annotation of any length.

    Every kind of entry gets the same share; a kind that has fewer gives all. The file is read once, and the
    same seed draws the same entries, in whatever order they stand.
    """
    from audiolm_compress.data.sample import sample as draw

    _check(json_file)
    drawn = draw(
        annotation,
        out,
        clips=clips,
        by=_keys(by),
        seed=seed,
        prefix=prefix,
        audio=audio,
        on_bad=on_bad,
        replace=replace,
        tell=_teller(quiet),
    )
    _give(drawn, json_file, quiet, f"{sum(drawn.drawn.values())} entries in {drawn.path}")


@click.command(cls=Answering, epilog=_SPLIT)
@click.argument("annotation")
@click.option("--parts", required=True, metavar="NAME=SHARE,...", help="Shares, which add up to 1.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder. Default: the annotation's own.")
@_subset_options
@click.option("--group", help="Key such as `speaker` whose equal values stay together. Default: the file.")
@click.option("--content", is_flag=True, help="Read every file as a whole, and keep equal ones together.")
def split(
    annotation: str,
    parts: str,
    out: str | None,
    by: str,
    seed: int,
    prefix: str | None,
    on_bad: OnBad,
    replace: bool,
    json_file: str | None,
    quiet: bool,
    group: str | None,
    content: bool,
) -> None:
    """Split an annotation into parts that share no clip, each written as NAME.json.

    Every part gets its share of every kind of entry, to within a few. All entries of one audio file go to one
    part. The same seed splits the same way.
    """
    from audiolm_compress.data.split import split as divide

    _check(json_file)
    done = divide(
        annotation,
        _shares(parts),
        out=out,
        by=_keys(by),
        group=group,
        content=content,
        seed=seed,
        prefix=prefix,
        on_bad=on_bad,
        replace=replace,
        tell=_teller(quiet),
    )
    _give(done, json_file, quiet, f"Written: {', '.join(map(str, done.files.values()))}")


def _check(json_file: str | None) -> None:
    from pathlib import Path

    from audiolm_compress.data.targets import check_report

    if json_file is not None:
        check_report(Path(json_file))


def _teller(quiet: bool) -> Callable[[str], None]:
    return lambda line: None if quiet else click.echo(line, err=True)


def _keys(by: str) -> list[str]:
    return [] if by == "none" else [key.strip() for key in by.split(",") if key.strip()]


def _shares(parts: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts.split(","):
        name, equals, share = part.partition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not equals or name.strip() in found or value < 0:
            raise click.BadParameter(
                f"{part!r}: expected NAME=SHARE, each name once, as in train=0.9,test=0.1",
                param_hint="--parts",
            )
        found[name.strip()] = value
    return found


def _give(found: Sample | Split, json_file: str | None, quiet: bool, last: str) -> None:
    from rich.console import Console

    from audiolm_compress.report.section import on_terminal
    from audiolm_compress.report.subsets import lines, section, to_json

    def show() -> None:
        if quiet:
            return
        console = Console(highlight=False)
        for made in on_terminal([section(found)]):
            console.print(made)
        for line in lines(found):
            console.print(f"- {line}", markup=False)

    give(json_file, lambda: to_json(found), show)
    click.echo(last, err=True)
