"""``audiolm-compress doctor``: what this machine has, what it lacks, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from audiolm_compress.cli.completion import complete_recipes
from audiolm_compress.cli.options import Answering, device_option, give, json_option, overrides_option

if TYPE_CHECKING:
    from audiolm_compress.doctor import Finding

BROKEN = 2
MARKS = {"ok": ("✓", "green"), "missing": ("-", "yellow"), "problem": ("✗", "bold red")}
EXAMPLES = """\b
Examples:
  audiolm-compress doctor
  audiolm-compress doctor recipes/gemma2_4bit.yaml --baseline salmonn.yaml
  audiolm-compress doctor --json

\b
Exit codes: 0 models can be compressed here, 2 something essential is broken.
"""


@click.command(cls=Answering, epilog=EXAMPLES)
@click.argument("recipe", required=False, shell_complete=complete_recipes)
@click.option("--baseline", help="Model in place of the recipe's; configs will do.")
@json_option
@device_option
@overrides_option
def doctor(
    recipe: str | None,
    baseline: str | None,
    json_file: str | None,
    device: str | None,
    overrides: tuple[str, ...],
) -> int:
    """Check this machine and installation.

    Each line says ok, missing or problem; below, what the lack costs and how to end it. With RECIPE, memory
    and disk are held against what `plan` says of it.
    """
    if recipe is None and (baseline is not None or overrides):
        raise click.UsageError("--baseline and --set are of a recipe; name one")
    import json
    from dataclasses import asdict

    try:
        import torch

        from audiolm_compress.devices import choose_device
        from audiolm_compress.doctor import examine
    except ImportError as error:
        raise click.ClickException(
            f"a package cannot be imported ({error}); pip install -c constraints.txt ."
        ) from error
    plan = None
    if recipe is not None:
        from audiolm_compress.planner import plan as make_plan

        plan = make_plan(recipe, baseline=baseline, device=device, overrides=overrides)
    found = examine(torch.device(choose_device(device)), plan)
    broken = any(one.essential and one.state != "ok" for group in found.values() for one in group)

    def content() -> str:
        groups = {name: [asdict(one) for one in group] for name, group in found.items()}
        return json.dumps({"can_run": not broken, **groups}, indent=1, ensure_ascii=False) + "\n"

    give(json_file, content, lambda: _show(found, broken))
    return BROKEN if broken else 0


def _show(found: Mapping[str, Sequence[Finding]], broken: bool) -> None:
    """One line a finding, mark and word first; costs and remedies below those that have any."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, group in found.items():
        console.print(Text(title, style="bold"))
        shown = Table.grid(padding=(0, 1))
        shown.add_column(width=1)
        shown.add_column(width=7)
        shown.add_column(width=17)
        shown.add_column(overflow="fold")
        for one in group:
            mark, style = MARKS[one.state]
            text = Text(one.found)
            if one.cost:
                text.append(f"\ncosts: {one.cost}", "dim")
            if one.remedy:
                text.append(f"\nto get it: {one.remedy}", "dim")
            shown.add_row(Text(mark, style), Text(one.state, style), one.name, text)
        console.print(shown)
    counts = {state: sum(one.state == state for group in found.values() for one in group) for state in MARKS}
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    verdict = "something essential is broken" if broken else "models can be compressed here"
    console.print(Text(f"{verdict}: {told}", style="bold red" if broken else "bold green"))
