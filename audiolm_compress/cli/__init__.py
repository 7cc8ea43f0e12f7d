"""The command ``audiolm-compress``.

Nothing heavy is imported here: each command imports what it needs when it runs, so that ``--help`` answers
at once.
"""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import NoReturn

import click

from audiolm_compress import __version__
from audiolm_compress.cli import launched
from audiolm_compress.cli.answer import ask, caption, transcribe
from audiolm_compress.cli.bench import bench
from audiolm_compress.cli.compare import compare
from audiolm_compress.cli.completion import PROGRAM, completion
from audiolm_compress.cli.data import data
from audiolm_compress.cli.doctor import doctor
from audiolm_compress.cli.efficiency import efficiency
from audiolm_compress.cli.evaluate import evaluate
from audiolm_compress.cli.export import export
from audiolm_compress.cli.passes import passes
from audiolm_compress.cli.plan import plan
from audiolm_compress.cli.push import push
from audiolm_compress.cli.run import run
from audiolm_compress.cli.score import score, validate
from audiolm_compress.cli.search import search
from audiolm_compress.cli.train import train
from audiolm_compress.errors import AudioLMError, did_you_mean
from audiolm_compress.faults import explanation

DONE, USER_ERROR, INTERRUPTED = 0, 2, 130
EXAMPLES = """\b
The first job: compress the embedded baseline, which needs no download:
  audiolm-compress run recipes/gemma2_4bit.yaml
See first what a recipe will give and cost, from configs alone:
  audiolm-compress plan recipes/gemma2_4bit.yaml --baseline salmonn.yaml
Compress your own checkpoint by the same recipe:
  audiolm-compress run recipes/gemma2_4bit.yaml --baseline salmonn.yaml --out out/mine
Use the result:
  audiolm-compress transcribe speech.wav --model out/mine
See all runs so far in one table:
  audiolm-compress compare out/*
What this machine lacks, and what that costs:
  audiolm-compress doctor

\b
Exit codes: 0 done, 2 something in the input is wrong, 3 goals of the recipe
missed, 130 interrupted.
"""


class Grouped(click.Group):
    """A group whose help lists commands by what they are for, and which suggests one for a misspelt one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, but that an unknown name is told with the nearest one and all that there are."""
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            known = [*self.commands]
            ctx.fail(f"No such command {name!r}{did_you_mean(name, known)} (commands: {', '.join(known)})")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One section a purpose, all with the same left column."""
        width = max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            limit = formatter.width - width - 6
            rows = [(str(one.name).ljust(width), one.get_short_help_str(limit)) for one in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


SECTIONS: Mapping[str, Sequence[click.Command]] = {
    "Compress": (run, plan, search, passes),
    "Use a model": (transcribe, caption, ask, export, push),
    "Measure and compare": (bench, compare, evaluate, score, validate, efficiency),
    "Train": (train,),
    "Prepare data": (data,),
    "This installation": (doctor, completion),
}


@click.group(
    cls=Grouped,
    commands=[command for commands in SECTIONS.values() for command in commands],
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXAMPLES,
)
@click.version_option(__version__, prog_name=PROGRAM)
# `_run` looks for it among the arguments, as errors reach it outside of click's context.
@click.option("--debug", is_flag=True, expose_value=False, help="Show the whole traceback of an error.")
def cli() -> None:
    """Make SALMONN audio language models smaller and faster, and prove what that cost."""


def main() -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _stop)
    if not launched.is_main():
        warnings.simplefilter("ignore")  # the main process gives the same
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    """Exit code of one command; every expected failure becomes one message without traceback."""
    try:
        code = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return DONE
    except click.ClickException as error:
        error.show()
        return USER_ERROR
    except (click.Abort, KeyboardInterrupt) as interrupt:
        if launched.another_failed():  # the launcher then ends all
            return USER_ERROR
        if launched.is_main():
            told = str(interrupt.__cause__ or interrupt)  # click's Abort is raised from the interrupt
            click.echo(f"interrupted; {told or 'nothing was written'}", err=True)
        return INTERRUPTED
    except AudioLMError as error:
        return _told(str(error), arguments)
    except Exception as error:
        if isinstance(error, RuntimeError) and launched.another_failed():  # and left a common operation
            return USER_ERROR
        words = explanation(error)
        if words is None:
            raise
        return _told(words, arguments)
    return code or DONE


def _told(message: str, arguments: list[str]) -> int:
    """Exit code of an error, after one process of the launch has told it."""
    with launched.failing() as tells:
        if tells and "--debug" in arguments:
            traceback.print_exc()
        if tells:
            click.echo(f"error: {message}", err=True)
    return USER_ERROR


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End on SIGTERM as on Ctrl-C, so that unfinished folders are removed."""
    raise KeyboardInterrupt
