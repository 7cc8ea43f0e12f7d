"""A progress that tests can ask what it was told."""

from __future__ import annotations

from audiolm_compress.passes.base import Silent


class Recorder(Silent):
    """Keeps the lines of progress with the steps that they had and that were done."""

    def __init__(self) -> None:
        self.lines: list[list[int | str]] = []

    def start(self, description: str, total: int) -> None:
        self.lines.append([description, total, 0])

    def advance(self, steps: int = 1) -> None:
        self.lines[-1][2] += steps  # type: ignore[operator]  # the third item is a number
