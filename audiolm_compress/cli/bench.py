"""``audiolm-compress bench``: several models on the same clips."""

from __future__ import annotations

import click

from audiolm_compress.cli.options import device_option, threads_option

EXAMPLES = """\b
Examples:
  audiolm-compress bench tiny out/gemma2_4bit
  audiolm-compress bench salmonn.yaml out/mine --data test.json --prefix /data/audio --device cuda
"""


@click.command(epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--data",
    "annotations",
    multiple=True,
    help="Test annotation (SALMONN JSON); repeatable. Default: tiny's.",
)
@click.option("--prefix", help="Folder of the audio paths. Default: the annotation's own.")
@device_option
@click.option("--json", "json_file", help="Also write the measurements into this file.")
@threads_option
def bench(
    models: tuple[str, ...],
    annotations: tuple[str, ...],
    prefix: str | None,
    device: str | None,
    json_file: str | None,
) -> None:
    """Compare models: size, memory, latency and quality.

    Each of MODELS runs in a fresh process of its own, on the same clips. The first is what the others are
    compared to.
    """
