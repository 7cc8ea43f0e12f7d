"""Options that several commands share, and what ``--json`` and ``--quiet`` mean in all of them.

``--json`` prints JSON on standard output in the place of the tables, and nothing else goes there;
``--json FILE.json`` writes it beside them. ``--quiet`` shows no progress, and no tables of what is written to
a folder anyway. Progress, notes and errors go to standard error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
PRINTED = "-"


class Answering(click.Command):
    """A command whose ``--json`` may stand alone; a name that ends in .json behind it is its file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with a value for every ``--json``."""
        return super().parse_args(ctx, joined(args))


def joined(arguments: list[str]) -> list[str]:
    """Arguments in which every ``--json`` has a value.

    >>> joined(["--json", "tiny"]), joined(["tiny", "--json", "found.json"])
    (['--json=-', 'tiny'], ['tiny', '--json=found.json'])
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, made = list(arguments[:end]), []
    while options:
        option = options.pop(0)
        if option == "--json":
            own = options and (options[0] == PRINTED or options[0].lower().endswith(".json"))
            option = f"--json={options.pop(0) if own else PRINTED}"
        made.append(option)
    return made + arguments[end:]


def json_option(command: Command) -> Command:
    """``--json`` of a command of the class ``Answering``."""
    return click.option(
        "--json",
        "json_file",
        type=click.Path(dir_okay=False, allow_dash=True),
        metavar="[FILE.json]",
        help="Print JSON in place of the tables, or write it to a file beside them.",
    )(command)


def quiet_option(command: Command) -> Command:
    """``--quiet``."""
    return click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="No progress, and no tables of what is written to a folder: errors and the last line alone.",
    )(command)


def give(json_file: str | None, content: Callable[[], str], show: Callable[[], None]) -> None:
    """Print or write ``content``, and show tables where JSON does not stand in their place."""
    if json_file == PRINTED:
        click.echo(content(), nl=False)
        return
    show()
    if json_file is not None:
        Path(json_file).write_text(content(), encoding="utf-8")


def device_option(command: Command) -> Command:
    """``--device``."""
    return click.option(
        "--device",
        default=None,
        help="Where models run, such as cpu or cuda:0. Default: cuda if there is one.",
    )(command)


def overrides_option(command: Command) -> Command:
    """``--set`` of the commands that take a recipe."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY.PATH=VALUE",
        help="Change an entry of the recipe, such as passes.0.bits=3 (passes count from 0); paths start "
        "at the working directory; repeatable.",
    )(command)


def threads_option(command: Command) -> Command:
    """``--threads``: must act before torch is imported, so it is applied while options are read."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        expose_value=False,
        is_eager=True,
        callback=_limit_threads,
        help="CPU threads of this process and of those it starts. Default: all cores.",
    )(command)


def _limit_threads(context: click.Context, option: click.Parameter, threads: int | None) -> None:
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
