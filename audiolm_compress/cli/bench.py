"""``audiolm-compress bench``: several models on the same clips."""

from __future__ import annotations

from typing import Any

import click

from audiolm_compress.cli.options import (
    Answering,
    device_option,
    give,
    json_option,
    quiet_option,
    threads_option,
)

EXAMPLES = """\b
Examples:
  audiolm-compress bench tiny out/gemma2_4bit
  audiolm-compress bench tiny --max-clips 20
  audiolm-compress bench salmonn.yaml out/a out/b --data test.json --prefix /data/audio --out out/bench

\b
Several GPUs share the answers; the first alone times the models:
  accelerate launch --multi_gpu --num_processes 4 -m audiolm_compress bench MODELS
"""


@click.command(cls=Answering, epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--data", "files", multiple=True, help="Annotation with test clips; repeatable. Default: tiny's."
)
@click.option("--prefix", help="Folder of the audio paths. Default: the annotation's own.")
@click.option("--max-clips", type=click.IntRange(min=1), help="At most this many clips. Default: all.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Clips answered together.")
@click.option("--clips", "timed", type=click.IntRange(min=1), help="Real clips that are timed.")
@click.option("--runs", type=click.IntRange(min=1), help="Iterations of upstream's latency protocol.")
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    help="Also time the clips answered this many at a time; repeatable.",
)
@click.option(
    "--in-turns/--one-by-one",
    "interleave",
    default=True,
    show_default=True,
    help="Load all models and time them in turns, or one after the other.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of noise, sampling and intervals.")
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Folder for bench.json, bench.md, bench.html and the answers of each model as CSV.",
)
@json_option
@quiet_option
@device_option
@threads_option
def bench(
    models: tuple[str, ...],
    files: tuple[str, ...],
    prefix: str | None,
    max_clips: int | None,
    batch_size: int | None,
    timed: int | None,
    batches: tuple[int, ...],
    interleave: bool,
    runs: int | None,
    seed: int,
    out: str | None,
    json_file: str | None,
    quiet: bool,
    device: str | None,
) -> None:
    """Compare models: size, memory, latency and quality.

    Each of MODELS runs in a fresh process of its own, on the same clips. The first is the baseline: what the
    others differ from it is shown with 95 % intervals, p-values and verdicts.
    """
    import shlex
    import sys

    from rich.console import Console

    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.comparison import benchmark
    from audiolm_compress.measurement.settings import BenchmarkSettings
    from audiolm_compress.recipe import data_settings
    from audiolm_compress.training.shards import disband, processes

    main = processes().is_main_process
    settings = BenchmarkSettings.model_validate(
        _given(
            max_clips=max_clips,
            batch_size=batch_size,
            latency=_given(clips=timed, batch_sizes=batches, interleave=interleave),
            noise_protocol=_given(iterations=runs),
        )
    )
    data = data_settings(test=files or ("tiny",), prefix=prefix)
    command = shlex.join(["audiolm-compress", *sys.argv[1:]])
    with shown_progress(quiet) as progress:
        found = benchmark(
            models,
            data,
            settings=settings,
            device=device,
            seed=seed,
            notes=[f"made by: {command}"],
            progress=progress,
        )
    disband()
    if not main:
        return
    give(json_file, found.to_json, lambda: None if quiet and out else Console().print(found))
    if out:
        found.write(out)
        click.echo(f"Saved in {out}", err=True)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; of the others the defaults of the settings hold."""
    return {name: value for name, value in options.items() if value is not None}
