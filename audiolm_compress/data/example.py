"""One item of data: a clip, what is asked about it and the texts that count as right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Example:
    """Audio, instruction and reference texts.

    Attributes:
        id: ``testset_id`` of the annotation where present, else its path.
        waveform: float32 samples at 16 kHz, shape [samples], in [-1, 1].
        task: task name of the annotation, such as ``asr`` or ``audiocaption``.
        text: the (first) reference text.
        references: all reference texts; the first is ``text``.
        question: fills ``{}`` of a question-answering prompt; empty elsewhere.
        path: the audio file, for reports.
        source: name of the data set that the clip comes from, for reports; empty if the annotation has none.
    """

    id: str
    waveform: Tensor
    task: str
    text: str
    references: tuple[str, ...] = ()
    question: str = ""
    path: Path | None = None
    source: str = ""
