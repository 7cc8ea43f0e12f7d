"""What is asked about a clip: instructions per task, and the template around the audio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from audiolm_compress.errors import DataError

AUDIO_SLOT = "<SpeechHere>"
AUDIO_FRAME = f"<Speech>{AUDIO_SLOT}</Speech> "


@dataclass(frozen=True)
class Prompts:
    r"""Instructions of a SALMONN.

    Attributes:
        template: put around an instruction, with one ``{}``, such as ``USER: {}\nASSISTANT:``.
        test: the instruction of each task in evaluation.
        train: the instructions of each task that training samples from.
        templates: in the place of ``template``, for tasks that have one of their own.
    """

    template: str = "{}"
    test: Mapping[str, str] = field(default_factory=dict)
    train: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for task, text in [*self.test.items(), *((t, p) for t, many in self.train.items() for p in many)]:
            if text.count(AUDIO_SLOT) != 1:
                raise DataError(
                    f"prompt of task {task!r}: {AUDIO_SLOT} must occur exactly once, "
                    f"found {text.count(AUDIO_SLOT)} times in {text!r}"
                )

    def around(self, task: str, prompt: str | None = None, question: str = "") -> tuple[str, str]:
        """The text before and after the audio tokens.

        Args:
            task: names an instruction and perhaps a template; not looked at when ``prompt`` is given.
            prompt: own words, which get the common template. Without ``<SpeechHere>`` they follow the audio.
            question: fills ``{}`` of a question-answering instruction.

        Raises:
            DataError: no instruction for this task, or no single place for the audio.
        """
        text = self.instruction(task) if prompt is None else prompt
        if AUDIO_SLOT not in text:
            text = AUDIO_FRAME + text
        if prompt is None and "{}" in text:
            text = text.replace("{}", question)
        # Not str.format: an instruction or a question may hold braces of its own.
        template = self.template if prompt is not None else self.templates.get(task, self.template)
        parts = template.replace("{}", text).split(AUDIO_SLOT)
        if len(parts) != 2:
            raise DataError(f"prompt {text!r}: {AUDIO_SLOT} must occur exactly once")
        return parts[0], parts[1]

    def instruction(self, task: str) -> str:
        """What the task is asked with in evaluation: of ``test``, else the first of ``train``.

        Raises:
            DataError: this model has none for the task.
        """
        if task in self.test:
            return self.test[task]
        if self.train.get(task):
            return self.train[task][0]
        known = sorted({*self.test, *self.train})
        raise DataError(
            f"no prompt for task {task!r}: this model has prompts for {', '.join(known) or 'no task'}; "
            f"use one of these or give a prompt"
        )

    def worded(self, tasks: Iterable[str], template: str, instruction: str) -> Prompts:
        """The same, but ``tasks`` are asked with ``instruction`` within ``template``."""
        tasks = tuple(tasks)
        return replace(
            self,
            test={**self.test, **dict.fromkeys(tasks, instruction)},
            templates={**self.templates, **dict.fromkeys(tasks, template)},
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        train = {task: list(many) for task, many in self.train.items()}
        return {
            "template": self.template,
            "test": dict(self.test),
            "train": train,
            "templates": dict(self.templates),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prompts:
        """Read the JSON form; that of older folders knows no templates of single tasks."""
        train = {task: tuple(many) for task, many in values["train"].items()}
        return cls(values["template"], dict(values["test"]), train, dict(values.get("templates", {})))
