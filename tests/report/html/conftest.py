"""Reports whose clips are sounds on disk and whose texts mean harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_compress.measurement.measurements import ClipResult, ClipScore, Measurements
from audiolm_compress.metrics.wer import wer
from audiolm_compress.passes import MergeLora
from audiolm_compress.passes.base import PassReport
from audiolm_compress.recipe_sections import Goals
from audiolm_compress.report import Report, Step

HOSTILE = (
    "<script>document.title='owned'</script>",
    "</script><img src=http://example.org/x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' x=\"",
    "right \u202e to left \x00 and half \ud800",
    "&lt;b&gt; &amp;",
    "without" + "end" * 200,
)
VOID = {"meta", "input", "br"}


class Tree(HTMLParser):
    """Elements as a browser would see them: (name, attributes), and whether all are closed in turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def write_sound(path: Path, seconds: float, seed: int = 0) -> None:
    """A voice-like buzz whose pitch and loudness wander, in noise: as hard to store as real clips."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    pitch = 120 + 40 * np.sin(2 * np.pi * 0.7 * time + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    buzz = sum(np.sin(n * phase) / n for n in (1, 2, 3, 5, 8, 13))
    loudness = np.abs(np.sin(2 * np.pi * 2.3 * time))
    samples = 0.1 * buzz * loudness + 0.05 * generator.standard_normal(len(time))
    soundfile.write(path, samples.astype(np.float32), 16_000, subtype="PCM_16")


@pytest.fixture
def hostile() -> tuple[str, ...]:
    """Texts that would run, load or overwrite something if they were not escaped."""
    return HOSTILE


@pytest.fixture
def parse() -> type[Tree]:
    """Reads a page and fails where it is not well-formed."""
    return Tree


@pytest.fixture
def heard(measured: Callable[..., Measurements], tmp_path: Path) -> Callable[..., Report]:
    """Makes a report whose clips are files: recognition and captions in turn, the candidate worse on some."""

    def make(count: int = 6, seconds: float = 1.5, texts: tuple[str, ...] = ()) -> Report:
        sides = []
        for side in (0, 1):
            clips = []
            for i in range(count):
                path = tmp_path / f"clip{i}.wav"
                if not path.exists():
                    write_sound(path, seconds, i)
                said = texts[i % len(texts)] if texts else f"the dog number {i} barks"
                answer = said if (i + side) % 3 else f"a dog number {i} barks loudly"
                clips.append(_clip(i, path, seconds + i / 10, said, answer, side))
            sides.append(replace(measured(weight_bytes=(4 - 2 * side) * 2**20), clips=tuple(clips)))
        step = Step.of(
            MergeLora(),
            PassReport(
                changed=True,
                summary="folded " + (texts[0] if texts else "two factors"),
                figures={"loss_before": 0.5, "loss_after": 0.625},
                modules=[{"name": "q_proj", "error": 0.123456789}],
                notes=["left one layer out"],
            ),
            seconds=1.5,
            weight_bytes={"llm": 2 * 2**20},
        )
        return Report.of(
            sides[0],
            replace(sides[1], source="out/mine"),
            steps=[step],
            environment={"audiolm_compress": "0.1.0", "device": "cpu", "packages": {"torch": "2"}},
            goals=Goals(weight_ratio=0.5, tpot_ratio=0.9, wer_increase="noise"),
            notes=list(texts),
        )

    return make


def _clip(i: int, path: Path, seconds: float, said: str, answer: str, side: int) -> ClipResult:
    if i % 2:
        scores = {"cider_d": ClipScore(2.0 - side * (i % 3), 1)}
        return ClipResult(
            f"clip{i}", "audiocaption", answer, (said, "rain"), str(path), seconds, "b", None, scores
        )
    edits = wer([answer, "a"], [said, "a"]).per_clip[0]  # brackets and what they hold are no words
    scores = {"wer": ClipScore(edits.errors, edits.words)}
    return ClipResult(f"clip{i}", "asr", answer, (said,), str(path), seconds, "a", edits, scores)
