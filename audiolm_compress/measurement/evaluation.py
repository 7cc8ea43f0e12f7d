"""Upstream's evaluation: a model answers the clips of one task, and the answers go to a file.

As upstream does, each clip is asked with the model's instruction for its task, and answers are lower-cased.
Unlike upstream, an audio file that cannot be read stops the evaluation before it begins; there it is answered
with the audio of the first clip.

Answering a large test set takes long, so every batch is kept as soon as it is answered. What is kept belongs
to a hash of everything that answers depend on: weights, prompts, decode settings, clips, batches, seed. Under
the same hash an evaluation goes on where it was cut off; under another it begins anew beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import load_examples
from audiolm_compress.data.tasks import TaskKind, task_kind
from audiolm_compress.errors import DataError
from audiolm_compress.measurement.answer_file import write_answers
from audiolm_compress.measurement.quality import answer_batch, own_batches, used_decode
from audiolm_compress.measurement.settings import BenchmarkSettings, DecodeChanges
from audiolm_compress.passes.base import Progress
from audiolm_compress.runtime.settings import RuntimeSettings
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.settings import Settings
from audiolm_compress.training.features import digest, fingerprint

Mode = Literal["submission_asr", "submission_aac", "valid_asr", "valid_aac"]
MODES: tuple[Mode, ...] = get_args(Mode)


class EvaluationSettings(Settings):
    """How clips are answered."""

    batch_size: int = Field(8, ge=1, description="clips answered together")
    decode: DecodeChanges = Field(
        DecodeChanges(), description="changes to the model's decode settings for the task"
    )
    runtime: RuntimeSettings = Field(RuntimeSettings(), description="what runs the LLM")
    seed: int = Field(0, ge=0, description="of sampling, where the decode settings sample")

    def benchmark(self, kind: TaskKind) -> BenchmarkSettings:
        """The same in the words of a benchmark."""
        return BenchmarkSettings(batch_size=self.batch_size, decode={kind: self.decode}, runtime=self.runtime)


@dataclass(frozen=True)
class Evaluation:
    """The answers to a test set.

    Attributes:
        answers: ``testset_id`` and text of each clip, in the order of the annotation.
        kept: how many of them an evaluation that was cut off had left.
        partial: the file that holds them; no longer needed once they are written elsewhere.
    """

    answers: tuple[tuple[str, str], ...]
    kept: int
    partial: Path

    @property
    def empty(self) -> int:
        """How many clips got no words."""
        return sum(not text.strip() for _, text in self.answers)

    def write(self, path: Path) -> None:
        """Write upstream's file of answers and remove the partial one.

        Raises:
            DataError: the file cannot be written; the partial one stays.
        """
        write_answers(path, self.answers)
        self.partial.unlink(missing_ok=True)


def mode_kind(mode: Mode) -> TaskKind:
    """The task of a mode."""
    return "asr" if mode.endswith("asr") else "aac"


def has_references(mode: Mode) -> bool:
    """Whether the answers of a mode are scored."""
    return mode.startswith("valid")


def load_clips(files: Sequence[str], prefix: str | None, mode: Mode) -> list[Example]:
    """The clips of a mode's task; those of other tasks are passed over.

    Args:
        files: annotations; each clip has a ``testset_id``, and in the modes ``valid_*`` a reference.
        prefix: folder that the audio paths start from; None: the annotation's own.
        mode: one of ``MODES``.

    Raises:
        DataError: the annotation is unusable, has no clip of the task, or audio files are bad.
    """
    kind, references = mode_kind(mode), has_references(mode)
    tasks = dict.fromkeys(
        entry.task
        for file in files
        for entry in read_annotation(file, prefix=prefix, require_ids=True, require_texts=references)
    )
    asked = [task for task in tasks if task_kind(task) == kind]
    if not asked:
        raise DataError(
            f"{', '.join(files)}: mode {mode} answers clips of task {kind}, found only tasks "
            f"{', '.join(tasks)}; name another mode or annotation"
        )
    return load_examples(
        files, prefix=prefix, tasks=asked, require_ids=True, require_texts=references
    ).examples


def evaluate(
    model: Salmonn,
    examples: Sequence[Example],
    settings: EvaluationSettings,
    stem: Path,
    progress: Progress,
) -> Evaluation:
    """Answer all clips, and keep the answers in a partial file as they come.

    Args:
        model: what answers.
        examples: clips of one kind of task.
        settings: how they are answered.
        stem: begins the name of the partial file, to which a hash and ``.partial`` are added.
        progress: where to show the state.

    Raises:
        DataError: the model has no instruction for a task, or the partial file cannot be written.
    """
    model.runtime = settings.runtime
    benchmark = settings.benchmark(task_kind(examples[0].task))
    partial = stem.with_name(f"{stem.name}.{_identity(model, examples, benchmark, settings.seed)}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        answers = _kept(partial)
        kept = sum(example.id in answers for example in examples)
        progress.start(f"answering {len(examples) - kept} of {len(examples)} clips", len(examples) - kept)
        with partial.open("a", encoding="utf-8", newline="\n") as file:
            for number, batch in own_batches(examples, settings.batch_size, (0, 1)):
                if all(example.id in answers for example in batch):
                    continue
                texts = answer_batch(model, batch, benchmark, settings.seed + number)
                for example, text in zip(batch, texts, strict=True):
                    answers[example.id] = text.lower()
                    file.write(json.dumps([example.id, answers[example.id]], ensure_ascii=False) + "\n")
                file.flush()
                progress.advance(len(batch))
    except OSError as error:
        raise DataError(f"{partial}: answers cannot be kept ({error.strerror})") from error
    return Evaluation(tuple((example.id, answers[example.id]) for example in examples), kept, partial)


def _identity(model: Salmonn, examples: Sequence[Example], settings: BenchmarkSettings, seed: int) -> str:
    """A hash of everything that the answers depend on."""
    asked = {
        "prompts": model.prompts.to_dict(),
        "decode": used_decode(model, examples, settings),
        "hearing": [model.bucket_seconds, model.audio_positions],
        "how": [settings.batch_size, settings.runtime.model_dump(), str(model.device), seed],
    }
    clips = (part for clip in examples for part in (clip.id, clip.task, clip.question, clip.waveform))
    return digest(fingerprint(model), json.dumps(asked, sort_keys=True), *clips)[:12]


def _kept(partial: Path) -> dict[str, str]:
    """The answers in a partial file; what a killed process left of a line at its end is cut off."""
    if not partial.exists():
        return {}
    whole = partial.read_bytes().rpartition(b"\n")
    os.truncate(partial, len(whole[0]) + len(whole[1]))
    return dict(json.loads(line) for line in whole[0].splitlines())
