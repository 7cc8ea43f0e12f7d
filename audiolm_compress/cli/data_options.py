"""Options of the commands that write clips, and what those say when they are done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from audiolm_compress.data.clip_file import Form

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED = 130
SHOWN = 10


def clip_options(command: Command) -> Command:
    """``--format``, ``--sampling-rate``, ``--channel`` and ``--workers``."""
    for option in (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=lambda: os.cpu_count() or 1,
            show_default="one a core",
            help="Processes.",
        ),
        click.option(
            "--channel",
            type=click.Choice(("first", "mean")),
            default="first",
            show_default=True,
            help="What becomes of several channels; first is what upstream reads.",
        ),
        click.option(
            "--sampling-rate",
            type=click.IntRange(1_000, 192_000),
            default=16_000,
            show_default=True,
            help="Samples a second of the files written.",
        ),
        click.option(
            "--format",
            type=click.Choice(("flac", "wav")),
            default="flac",
            show_default=True,
            help="Of the files written.",
        ),
    ):
        command = option(command)
    return command


def form_of(options: dict[str, Any]) -> Form:
    """The form that the options ask for; they are taken out of ``options``."""
    from audiolm_compress.data.clip_file import Form

    return Form(options.pop("format"), options.pop("sampling_rate"), options.pop("channel"))


@contextmanager
def going_on_later() -> Iterator[None]:
    """Say what Ctrl-C leaves behind."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted; finished clips are kept, the same command goes on", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def tell_left_out(lines: list[str], clipped: int, listed: str) -> None:
    """Notes on standard error: what is not there, and what was changed."""
    for line in lines[:SHOWN]:
        click.echo(f"left out: {line}", err=True)
    if lines:
        click.echo(f"All that was left out is listed in {listed}", err=True)
    if clipped:
        click.echo(f"note: {clipped} clips had samples beyond full scale, which were set to it", err=True)
