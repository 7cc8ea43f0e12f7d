"""``audiolm-compress push``: a folder as a repository of the Hugging Face hub."""

from __future__ import annotations

import click

EXAMPLES = """\b
Examples:
  audiolm-compress push out/mine owner/name --license gemma --dry-run
  audiolm-compress push out/mine owner/name --license gemma --base-model google/gemma-2-2b-it
"""


@click.command(epilog=EXAMPLES)
@click.argument("folder")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--license", "licence", help="The hub's name of the licence; kept in the folder's README.md.")
@click.option(
    "--base-model", "base_models", multiple=True, metavar="OWNER/NAME", help="Where weights came from."
)
@click.option("--revision", help="Branch to commit to. Default: the main one.")
@click.option("--public", is_flag=True, help="Let everybody see a repository that is created.")
@click.option("--with-audio", is_flag=True, help="Upload report.html too, which holds the test clips.")
@click.option("--dry-run", is_flag=True, help="List what would be uploaded, and send nothing.")
def push(
    folder: str,
    repository: str,
    licence: str | None,
    base_models: tuple[str, ...],
    revision: str | None,
    public: bool,
    with_audio: bool,
    dry_run: bool,
) -> None:
    """Upload a folder to the Hugging Face hub.

    FOLDER is one that `run` saved or `export` wrote; its README.md becomes the model card. Without a licence
    nothing is uploaded.
    """
    from audiolm_compress.publish import prepare_upload, send

    upload = prepare_upload(
        folder, repository, licence=licence, base_models=base_models, with_audio=with_audio
    )
    for name, size in upload.files.items():
        click.echo(f"{size:>14,}  {name}")
    for name in upload.left_out:
        click.echo(f"note: {name} is left out: the test clips can be heard in it; see --with-audio", err=True)
    if dry_run:
        click.echo(f"Nothing was sent; {len(upload.files)} files would go to {repository}")
        return
    click.echo(f"Uploaded to {send(folder, upload, revision=revision, private=not public)}")
