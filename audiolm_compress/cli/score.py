"""``score`` and ``validate``: files of answers in upstream's form, without any model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from audiolm_compress.cli.options import Answering, give, json_option

if TYPE_CHECKING:
    from audiolm_compress.cli.options import Command
    from audiolm_compress.data.tasks import TaskKind

_SCORE = """\b
Examples:
  audiolm-compress score answers.csv test.json
  audiolm-compress score before.csv after.csv test.json --task asr
"""
_VALIDATE = """\b
Examples:
  audiolm-compress validate answers.csv
  audiolm-compress validate answers.csv test.json --task aac

\b
Exit codes: 0 nothing is wrong, 2 something is.
"""


def _task_option(command: Command) -> Command:
    return click.option(
        "--task",
        type=click.Choice(["asr", "aac", "qa"]),
        help="Which clips must be answered. Default: those of the tasks that the file answers.",
    )(command)


@click.command(cls=Answering, epilog=_SCORE)
@click.argument("files", nargs=-1, required=True, metavar="HYP.csv [HYP2.csv] REF.json")
@_task_option
@click.option(
    "--as-written",
    is_flag=True,
    help="Compare captions as they are written, as upstream does. Default: in lower case, no punctuation.",
)
@click.option("--sentence-model", help="Folder of a sentence encoder, for the similarity of captions.")
@click.option("--fluency-model", help="Folder of FENSE's error detector, for FENSE.")
@json_option
def score(
    files: tuple[str, ...],
    task: TaskKind | None,
    as_written: bool,
    sentence_model: str | None,
    fluency_model: str | None,
    json_file: str | None,
) -> None:
    """Score a file of answers (testset_id,text).

    REF.json is the annotation of the test set. Recognition gets WER with its substitutions, deletions and
    insertions; captions CIDEr-D, and SPIDEr where SPICE is installed; questions their accuracy. A second file
    is compared with the first, clip by clip.
    """
    if len(files) not in (2, 3):
        raise click.UsageError(
            f"expected one or two files of answers and an annotation; found {len(files)} files"
        )
    from dataclasses import asdict
    from pathlib import Path

    from rich.console import Console, Group

    from audiolm_compress.cli.scored import compared, shown
    from audiolm_compress.measurement.answer_check import read_references
    from audiolm_compress.measurement.answer_scores import score_file
    from audiolm_compress.measurement.settings import BenchmarkSettings
    from audiolm_compress.recipe import checked
    from audiolm_compress.recipe_source import Source
    from audiolm_compress.report.differences import differences
    from audiolm_compress.report.json_form import written

    *answers, annotation = files
    entries = {"raw_captions": as_written, "sentence_model": sentence_model, "fluency_model": fluency_model}
    settings = checked(BenchmarkSettings, Source("score", Path.cwd(), entries))
    references = read_references(annotation)
    sides = [score_file(file, references, task, settings=settings) for file in answers]
    between = differences(*sides) if len(sides) == 2 else {}
    content = {
        "references": annotation,
        "answers": [side.to_dict() for side in sides],
        "differences": {name: asdict(result) for name, result in between.items()},
    }
    tables = Group(*map(shown, sides), *([compared(between)] if between else []))
    give(json_file, lambda: written(content), lambda: Console(highlight=False).print(tables))


@click.command(epilog=_VALIDATE)
@click.argument("answers")
@click.argument("references", required=False)
@_task_option
def validate(answers: str, references: str | None, task: TaskKind | None) -> None:
    """Check a file of answers (testset_id,text).

    Lists everything that is wrong with its form, line by line: header, quotes, line breaks, encoding,
    repeated ids, empty texts. With REFERENCES, the annotation of the test set, also ids that are missing,
    unknown or of another task.
    """
    from pathlib import Path

    from audiolm_compress.errors import DataError
    from audiolm_compress.measurement.answer_check import (
        check_answers,
        check_form,
        listed,
        read_references,
    )

    if references is None:
        if task is not None:
            raise click.UsageError("--task needs the annotation of the test set")
        rows, problems = check_form(answers)
        about = "its form was checked, not its ids"
    else:
        checked = check_answers(answers, read_references(references), task)
        rows, problems = list(checked.rows), list(checked.problems)
        about = f"all clips of task {' and '.join(checked.kinds)} in {references}"
        if checked.others:
            about += f"; {checked.others} clips of other tasks were not asked for"
    if problems:
        raise DataError(listed(Path(answers), problems))
    click.echo(f"{answers}: valid, {len(rows)} answers: {about}")
