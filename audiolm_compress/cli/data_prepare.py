"""``audiolm-compress data prepare``: annotations of corpora as they are downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from audiolm_compress.cli.data_options import clip_options, form_of, going_on_later, tell_left_out
from audiolm_compress.cli.options import quiet_option

if TYPE_CHECKING:
    from audiolm_compress.data.corpora.clip import Offer

Command = TypeVar("Command", bound=Callable[..., Any])
EXAMPLES = """\b
Examples:
  audiolm-compress data prepare librispeech LibriSpeech --split test-clean --out test.json
  audiolm-compress data prepare gigaspeech gigaspeech --split M --out giga.json
  audiolm-compress data prepare audiocaps audiocaps --split train --out audiocaps.json
  audiolm-compress data prepare clotho clotho --split development --out clotho.json
  audiolm-compress data prepare wavcaps WavCaps --out wavcaps.json
  audiolm-compress data prepare musicnet musicnet --split train --out musicnet.json
  audiolm-compress data prepare huggingface FOLDER_OR_ID --split test --task asr --out own.json

\b
Paths are relative to the annotation if the audio lies below its folder, else
to FOLDER, which is then the --prefix that other commands need. What gives no
entry is counted by reason, and listed in a CSV file beside the annotation.
"""


@click.group(epilog=EXAMPLES)
def prepare() -> None:
    """Make annotations of downloaded corpora."""


def _corpus_options(command: Command) -> Command:
    for option in (
        quiet_option,
        click.option("--out", required=True, type=click.Path(dir_okay=False), help="Annotation to write."),
        click.option("--split", "splits", multiple=True, help="Part of the corpus; repeatable."),
        click.argument("folder", type=click.Path(file_okay=False, exists=True)),
    ):
        command = option(command)
    return command


def _clips_option(command: Command) -> Command:
    return click.option(
        "--clips", help="Folder of the clips. Default: beside the annotation, named like it."
    )(command)


@prepare.command()
@_corpus_options
def librispeech(folder: str, splits: tuple[str, ...], out: str, quiet: bool) -> None:
    """LibriSpeech, as its archives unpack.

    FOLDER holds LibriSpeech/test-clean/SPEAKER/CHAPTER/*.flac and *.trans.txt, or is LibriSpeech itself.
    """
    from audiolm_compress.data.corpora.librispeech import offer

    _write(offer(Path(folder), splits), out, folder, quiet)


@prepare.command()
@_corpus_options
@_clips_option
@clip_options
def gigaspeech(
    folder: str, splits: tuple[str, ...], out: str, clips: str | None, quiet: bool, **options: Any
) -> None:
    """GigaSpeech: segments are cut out of its recordings.

    FOLDER holds GigaSpeech.json and audio/podcast/P0000/*.opus. Splits are its subsets XS, S, M, L, XL, DEV
    and TEST.
    """
    from audiolm_compress.data.corpora.gigaspeech import offer

    _write(offer(Path(folder), splits), out, _clips(clips, out), quiet, options)


@prepare.command()
@_corpus_options
def audiocaps(folder: str, splits: tuple[str, ...], out: str, quiet: bool) -> None:
    """AudioCaps, with audio files of any downloader.

    FOLDER or FOLDER/dataset holds train.csv, val.csv and test.csv; audio may be anywhere below, named
    ID_START, ID_START_END, YID, ID or by the audiocap_id.
    """
    from audiolm_compress.data.corpora.audiocaps import offer

    _write(offer(Path(folder), splits), out, folder, quiet)


@prepare.command()
@_corpus_options
def clotho(folder: str, splits: tuple[str, ...], out: str, quiet: bool) -> None:
    """Clotho, as its archives unpack.

    FOLDER holds clotho_captions_SPLIT.csv; audio may be anywhere below, best in folders named like the
    splits development, validation and evaluation.
    """
    from audiolm_compress.data.corpora.clotho import offer

    _write(offer(Path(folder), splits), out, folder, quiet)


@prepare.command()
@_corpus_options
@click.option(
    "--exclude",
    type=click.Choice(("test_ac", "all_ac", "ub8k_esc50_vggsound", "none")),
    default="test_ac",
    show_default=True,
    help="Blacklist of WavCaps whose clips are left out, as other corpora test with them.",
)
def wavcaps(folder: str, splits: tuple[str, ...], out: str, quiet: bool, exclude: str) -> None:
    """WavCaps, as its repository and archives unpack; all sources by default.

    FOLDER holds json_files/SOURCE/*_final.json; audio is in folders SOURCE_flac anywhere below. Splits are
    its sources AudioSet_SL, BBC_Sound_Effects, FreeSound and SoundBible.
    """
    from audiolm_compress.data.corpora.wavcaps import offer

    _write(offer(Path(folder), splits, "" if exclude == "none" else exclude), out, folder, quiet)


@prepare.command()
@_corpus_options
@_clips_option
@clip_options
def musicnet(
    folder: str, splits: tuple[str, ...], out: str, clips: str | None, quiet: bool, **options: Any
) -> None:
    """MusicNet: questions about clips of 30 s.

    FOLDER or FOLDER/musicnet holds train_data/*.wav and train_labels/*.csv (and test_...), either of them
    musicnet_metadata.csv.
    """
    from audiolm_compress.data.corpora.musicnet import offer

    _write(offer(Path(folder), splits), out, _clips(clips, out), quiet, options)


@prepare.command()
@click.argument("source")
@click.option("--split", required=True, help="Of the data set, such as train or test.")
@click.option("--task", required=True, help="Of all entries, such as asr or audiocaption.")
@click.option("--subset", help="Configuration of the data set, where it has several.")
@click.option("--audio-column", default="audio", show_default=True)
@click.option("--text-column", default="text", show_default=True, help="One text a row, or a list of them.")
@click.option("--id-column", default="", help="Becomes testset_id.")
@click.option("--question-column", default="", help="Becomes Q.")
@click.option("--max-clips", type=click.IntRange(min=1), help="Rows that are read. Default: all.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="Annotation to write.")
@_clips_option
@clip_options
@quiet_option
def huggingface(
    source: str,
    split: str,
    task: str,
    subset: str | None,
    audio_column: str,
    text_column: str,
    id_column: str,
    question_column: str,
    max_clips: int | None,
    out: str,
    clips: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """A data set for the library `datasets`: a folder or a hub id.

    Rows are streamed, and each becomes a clip beside the annotation. Needs
    the extra [datasets]. Data sets that are programs are refused.
    """
    from audiolm_compress.data.corpora.huggingface import Columns, offer

    columns = Columns(audio_column, text_column, id_column, question_column)
    offered = offer(source, split, task, subset=subset, columns=columns, most=max_clips)
    _write(offered, out, _clips(clips, out), quiet, options)


def _clips(clips: str | None, out: str) -> str:
    return clips or str(Path(out).with_suffix(""))


def _write(offer: Offer, out: str, folder: str, quiet: bool, options: dict[str, Any] | None = None) -> None:
    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.data.annotation_writer import left_out_path
    from audiolm_compress.data.clip_file import Form
    from audiolm_compress.data.prepare import prepare as prepared

    form, workers = (form_of(options), options["workers"]) if options else (Form(), 1)
    with going_on_later(), shown_progress(quiet) as progress:
        done = prepared(offer, out, folder, form=form, workers=workers, steps=progress)
    tell_left_out(done.reasons, done.clipped, str(left_out_path(done.annotation)))
    if done.prefix is not None:
        click.echo(f"note: its paths are relative to {done.prefix}, the --prefix to give", err=True)
    clips = f", {done.made} clips written" if done.made else ""
    click.echo(f"{done.entries} entries in {done.annotation}{clips}; {done.left_out} left out")
