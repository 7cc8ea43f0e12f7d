"""``audiolm-compress completion``: the shell completes commands, options, passes and recipes.

Completing starts this program at every press of the key, so what it asks must be known without importing
anything heavy: the names of passes are read from the package's list of public names.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "audiolm-compress"
VARIABLE = "_AUDIOLM_COMPRESS_COMPLETE"  # by which the shell's script asks, as click names it
EXAMPLES = """\b
Examples:
  audiolm-compress completion bash >> ~/.bashrc
  audiolm-compress completion zsh >> ~/.zshrc
  audiolm-compress completion fish > ~/.config/fish/completions/audiolm-compress.fish
"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete this command.

    Commands, options, names of passes and recipe files. It works in shells that are opened after it was
    installed.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    group = click.get_current_context().find_root().command
    # Not source(), which asks the installed bash for its version: the script may be for another machine.
    shown = made(group, {}, PROGRAM, VARIABLE)
    click.echo(shown.source_template % shown.source_vars())


def pass_names() -> list[str]:
    """Names that a recipe can give its passes: those of their classes with underscores."""
    from audiolm_compress import _HOME

    classes = [name for name, home in _HOME.items() if home == "passes"]
    return [re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in classes]


def complete_passes(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Passes that are not named yet."""
    from click.shell_completion import CompletionItem

    named = context.params.get(parameter.name or "") or ()
    return [
        CompletionItem(name) for name in pass_names() if name.startswith(incomplete) and name not in named
    ]


def complete_recipes(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """YAML files that begin like this; folders where there are none."""
    from click.shell_completion import CompletionItem

    begun = Path(os.path.expanduser(incomplete))  # noqa: PTH111  # Path's own raises for unknown users
    folder = begun if incomplete.endswith("/") else begun.parent
    shown = incomplete[: incomplete.rfind("/") + 1]
    files = [
        f"{shown}{file.name}"
        for file in sorted(folder.glob("*"))
        if file.suffix in (".yaml", ".yml") and file.is_file()
    ]
    folders = CompletionItem(incomplete, type="dir")  # first, as bash's script forgets what came before it
    return [folders, *(CompletionItem(file) for file in files if file.startswith(incomplete))]
