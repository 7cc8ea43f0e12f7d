"""``transcribe``, ``caption`` and ``ask``: use any model that ``load_model`` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from audiolm_compress.cli.options import Command, device_option, threads_option

if TYPE_CHECKING:
    from audiolm_compress.salmonn.model import Salmonn

_TRANSCRIBE = """\b
Examples:
  audiolm-compress transcribe speech.wav
  audiolm-compress transcribe *.flac --model out/gemma2_4bit
"""
_CAPTION = """\b
Example:
  audiolm-compress caption street.ogg --model out/gemma2_4bit
"""
_ASK = """\b
Example:
  audiolm-compress ask meeting.wav --prompt "What is the mood of the speaker?" --model salmonn.yaml
"""


def _model_options(command: Command) -> Command:
    command = click.option(
        "--model",
        default="tiny",
        show_default=True,
        help="A saved folder, an upstream YAML config, a hub id, or the embedded `tiny`.",
    )(command)
    return threads_option(device_option(command))


@click.command(epilog=_TRANSCRIBE)
@click.argument("files", nargs=-1, required=True)
@_model_options
def transcribe(files: tuple[str, ...], model: str, device: str | None) -> None:
    """Write down what is said in each audio FILE."""
    _answer(files, model, device, "asr")


@click.command(epilog=_CAPTION)
@click.argument("files", nargs=-1, required=True)
@_model_options
def caption(files: tuple[str, ...], model: str, device: str | None) -> None:
    """Describe what is heard in each audio FILE."""
    _answer(files, model, device, "aac")


@click.command(epilog=_ASK)
@click.argument("file")
@click.option("--prompt", required=True, help="What to ask about the clip.")
@_model_options
def ask(file: str, prompt: str, model: str, device: str | None) -> None:
    """Ask anything about an audio FILE."""
    _answer((file,), model, device, "QA", prompt)


def _answer(
    files: tuple[str, ...], source: str, device: str | None, kind: str, prompt: str | None = None
) -> None:
    """Read all files first, then answer one after the other; several answers carry their file's name.

    ``kind`` of task; with a ``prompt``, the task itself.
    """
    from audiolm_compress.data.audio import MAX_SECONDS, load_audio
    from audiolm_compress.devices import choose_device
    from audiolm_compress.salmonn.load import load_model

    clips = [load_audio(file) for file in files]
    for file, clip in zip(files, clips, strict=True):
        if clip.truncated:
            click.echo(f"note: {file} is cut at {MAX_SECONDS} s", err=True)
    model = load_model(source, device=choose_device(device))
    task = kind if prompt is not None else _task(model, kind)
    for file, clip in zip(files, clips, strict=True):
        (text,) = model.generate([clip.waveform], task=task, prompt=prompt)
        click.echo(text if len(files) == 1 else f"{file}\t{text}")


def _task(model: Salmonn, kind: str) -> str:
    """The model's own name for this kind of task; without one, generation says which tasks it knows."""
    from audiolm_compress.data.tasks import task_kind

    known = [*model.prompts.test, *model.prompts.train]
    return next((task for task in known if task_kind(task) == kind), kind)
