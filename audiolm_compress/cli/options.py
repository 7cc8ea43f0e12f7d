"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


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
        help="Change an entry of the recipe; repeatable.",
    )(command)


def threads_option(command: Command) -> Command:
    """``--threads``: must act before torch is imported, so it is applied while options are read."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        expose_value=False,
        is_eager=True,
        callback=_limit_threads,
        help="CPU threads of this run and of the measuring processes. Default: all cores.",
    )(command)


def _limit_threads(context: click.Context, option: click.Parameter, threads: int | None) -> None:
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
