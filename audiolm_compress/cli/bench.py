"""``audiolm-compress bench``: several models on the same clips."""

from __future__ import annotations

import click

from audiolm_compress.cli.options import device_option, threads_option

EXAMPLES = """\b
Examples:
  audiolm-compress bench tiny out/gemma2_4bit
  audiolm-compress bench salmonn.yaml out/mine --data test.json --prefix /data/audio --device cuda

\b
Several GPUs share the answers; the first alone times the models:
  accelerate launch --multi_gpu --num_processes 4 -m audiolm_compress bench MODELS
"""


@click.command(epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--data", "files", multiple=True, help="Annotation with test clips; repeatable. Default: tiny's."
)
@click.option("--prefix", help="Folder of the audio paths. Default: the annotation's own.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False),
    help="Write all measurements here, a list in the order of MODELS.",
)
@device_option
@threads_option
def bench(
    models: tuple[str, ...],
    files: tuple[str, ...],
    prefix: str | None,
    json_file: str | None,
    device: str | None,
) -> None:
    """Compare models: size, memory, latency and quality.

    Each of MODELS runs in a fresh process of its own, on the same clips.
    """
    import json
    from pathlib import Path

    from rich.console import Console

    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.comparison import measure_models
    from audiolm_compress.recipe import data_settings
    from audiolm_compress.report import rows
    from audiolm_compress.report.table import table
    from audiolm_compress.training.shards import disband, own_device, processes

    main = processes().is_main_process
    data = data_settings(test=files or ("tiny",), prefix=prefix)
    with shown_progress() as progress:
        sides = measure_models(models, data, device=own_device(device), progress=progress)
    disband()
    if not main:
        return
    names = rows.main_scores(*sides)
    shown = table("Models on the same clips", rows.header(names))
    for name, side in zip(models, sides, strict=True):
        shown.add_row(*rows.main_row(name, side, names))
    console = Console()
    console.print(shown)
    console.print(f"latency: {sides[0].clips_latency.protocol}", highlight=False)
    if json_file:
        content = [side.to_dict() for side in sides]
        Path(json_file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
