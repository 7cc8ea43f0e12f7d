"""``audiolm-compress evaluate``: upstream's evaluation, which writes a model's answers to a test set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiolm_compress.cli.launched import launched_with_others
from audiolm_compress.cli.options import (
    PRINTED,
    Answering,
    device_option,
    give,
    json_option,
    quiet_option,
    threads_option,
)

if TYPE_CHECKING:
    from audiolm_compress.measurement.answer_scores import FileScores
    from audiolm_compress.measurement.evaluation import Mode

INTERRUPTED = 130
MODES = ("submission_asr", "submission_aac", "valid_asr", "valid_aac")
EXAMPLES = """\b
Examples:
  audiolm-compress evaluate tiny --mode valid_asr
  audiolm-compress evaluate salmonn.yaml --mode submission_aac --out answers.csv
  audiolm-compress evaluate out/mine --mode valid_aac --data test.json --prefix /data/audio
  audiolm-compress evaluate tiny --mode valid_aac --set decode.num_beams=1

\b
The file has the columns testset_id,text. Without --out its name is
submission_results/ or valid_results/ and the time and mode, as upstream's.
--set takes decode.FIELD (max_new_tokens, num_beams, repetition_penalty, ...),
batch_size and seed.
"""


@click.command(cls=Answering, epilog=EXAMPLES, short_help="Answer a test set as upstream's evaluation does.")
@click.argument("model")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    required=True,
    help="Which task is answered; valid_* also scores, and needs references.",
)
@click.option(
    "--data",
    "files",
    multiple=True,
    help="Annotation with test clips; repeatable. Default: an upstream config's own, else tiny's.",
)
@click.option("--prefix", help="Folder of the audio paths. Default: the annotation's own.")
@click.option("--out", type=click.Path(dir_okay=False), help="File of answers to write.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Change a setting; repeatable."
)
@json_option
@quiet_option
@device_option
@threads_option
def evaluate(
    model: str,
    mode: Mode,
    files: tuple[str, ...],
    prefix: str | None,
    out: str | None,
    overrides: tuple[str, ...],
    json_file: str | None,
    quiet: bool,
    device: str | None,
) -> int:
    """Answer a test set as upstream's evaluate_salmonn.py does, and write the answers.

    MODEL answers the clips of the mode's task with its instruction for that task; answers are lower-cased.
    The same command again goes on where it was cut off.
    """
    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.devices import choose_device
    from audiolm_compress.errors import AudioLMError
    from audiolm_compress.measurement import evaluation
    from audiolm_compress.recipe import checked
    from audiolm_compress.recipe_source import Source
    from audiolm_compress.report.json_form import written
    from audiolm_compress.salmonn.load import load_model

    if launched_with_others():
        raise AudioLMError(
            "evaluate: answers in one process; start it without a launcher, or share with bench"
        )
    source = Source("evaluate", Path.cwd(), {})
    for override in overrides:
        source.set(override)
    settings = checked(evaluation.EvaluationSettings, source)
    files, prefix = _clips(model, mode, files, prefix)
    examples = evaluation.load_clips(files, prefix, mode)
    folder = Path(f"{mode.split('_')[0]}_results")
    path = Path(out) if out else folder / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{mode}.csv"
    try:
        with shown_progress(quiet) as progress:
            progress.start("loading the model", 1)
            loaded = load_model(model, device=choose_device(device))
            progress.advance()
            found = evaluation.evaluate(loaded, examples, settings, path if out else folder / mode, progress)
    except KeyboardInterrupt:
        click.echo("interrupted; answers so far are kept, the same command goes on", err=True)
        return INTERRUPTED
    found.write(path)
    if found.kept:
        click.echo(f"note: {found.kept} of {len(examples)} answers are of a run that was cut off", err=True)
    if found.empty:
        click.echo(
            f"note: {found.empty} of {len(examples)} answers are empty, which upstream's validator refuses",
            err=True,
        )
    content: dict[str, Any] = {
        "answers": str(path),
        "clips": len(examples),
        "kept": found.kept,
        "empty": found.empty,
    }
    scores = None
    if evaluation.has_references(mode):
        from audiolm_compress.data.annotation import read_annotation
        from audiolm_compress.measurement.answer_scores import score_file

        references = [entry for file in files for entry in read_annotation(file, prefix=prefix)]
        scores = score_file(path, references, evaluation.mode_kind(mode))
        content["scores"] = scores.to_dict()
    give(json_file, lambda: written(content), lambda: _show(scores))
    click.echo(f"{len(examples)} answers in {path}", err=json_file == PRINTED)
    return 0


def _show(scores: FileScores | None) -> None:
    if scores is not None:
        from rich.console import Console

        from audiolm_compress.cli.scored import shown

        Console(highlight=False).print(shown(scores))


def _clips(
    model: str, mode: Mode, files: tuple[str, ...], prefix: str | None
) -> tuple[tuple[str, ...], str | None]:
    """What is named, else what an upstream config names, else the embedded test clips."""
    from audiolm_compress.measurement.evaluation import mode_kind
    from audiolm_compress.recipe import data_settings
    from audiolm_compress.run_data import clip_source
    from audiolm_compress.salmonn.upstream_config import evaluation_clips

    if not files and Path(model).suffix in (".yaml", ".yml"):
        own = evaluation_clips(Path(model), mode_kind(mode))
        if own is not None:
            files, prefix = (own[0],), prefix or own[1]
    clips = clip_source(data_settings(test=files or ("tiny",), prefix=prefix))
    return clips.test, clips.prefix
