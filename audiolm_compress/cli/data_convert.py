"""``audiolm-compress data convert``: the audio files of an annotation in one form."""

from __future__ import annotations

from typing import Any

import click

from audiolm_compress.cli.data_options import clip_options, form_of, going_on_later, tell_left_out
from audiolm_compress.cli.options import quiet_option

EXAMPLES = """\b
Examples:
  audiolm-compress data convert train.json --out flac16
  audiolm-compress data convert train.json --prefix /data/audio --out flac16
  audiolm-compress data convert train.json --out flac16 --skip-damaged

\b
The folder gets the audio files under their old relative paths, and an
annotation of the old name. Samples have 16 bits, or 24 where a file has more
than 16; where neither rate nor width changes they are the same, bit for bit.
Every file is decoded again and compared before it gets its name. The same
command again makes only what is missing: a file is finished if its bytes and
those of its source are the recorded ones.
"""


@click.command(epilog=EXAMPLES)
@click.argument("annotation", type=click.Path(dir_okay=False))
@click.option("--out", required=True, help="Folder to write.")
@click.option("--prefix", help="Folder of the audio paths. Default: the annotation's own.")
@click.option(
    "--skip-damaged",
    is_flag=True,
    help="Leave out files that cannot be used, and list them, in place of stopping.",
)
@clip_options
@quiet_option
def convert(
    annotation: str, out: str, prefix: str | None, skip_damaged: bool, quiet: bool, **options: Any
) -> None:
    """Convert an annotation's audio files to FLAC, one channel, 16 kHz."""
    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.data.annotation_writer import left_out_path
    from audiolm_compress.data.convert import convert as converted

    with going_on_later(), shown_progress(quiet) as progress:
        done = converted(
            annotation,
            out,
            prefix=prefix,
            form=form_of(options),
            skip_damaged=skip_damaged,
            workers=options["workers"],
            steps=progress,
        )
    tell_left_out(done.left_out, done.clipped, str(left_out_path(done.annotation)))
    earlier = f", {done.kept} of them earlier" if done.kept else ""
    click.echo(f"{done.files} files converted{earlier}; {done.entries} entries in {done.annotation}")
