"""Shows how far a run is: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from audiolm_compress.cli.launched import is_main
from audiolm_compress.passes.base import Progress as ProgressProtocol
from audiolm_compress.passes.base import Silent


class Bars:
    """One line with bar, counter and time for every ``start``; finished lines stay."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, description: str, total: int) -> None:
        """Finish the line before and open the next."""
        self.finish()
        self._task = self._bars.add_task(description, total=max(total, 1))

    def advance(self, steps: int = 1) -> None:
        """Move the open bar."""
        if self._task is not None:
            self._bars.advance(self._task, steps)

    def finish(self) -> None:
        """Stop the clock of the open line; what has been done of it becomes its whole."""
        if self._task is not None:
            self._bars.update(self._task, total=self._bars.tasks[-1].completed or 1)
            self._bars.update(self._task, completed=self._bars.tasks[-1].total)
            self._bars.stop_task(self._task)


class Lines:
    """A line when work starts and every quarter of it, with the seconds since the run began."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._description = ""
        self._total, self._done = 1, 0

    def start(self, description: str, total: int) -> None:
        """Say what begins."""
        self._description, self._total, self._done = description, max(total, 1), 0
        self._say(description)

    def advance(self, steps: int = 1) -> None:
        """Say so when another quarter is done."""
        quarter = 4 * self._done // self._total
        self._done += steps
        if self._total >= 4 and 4 * self._done // self._total > quarter:
            self._say(f"{self._description}: {self._done}/{self._total}")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begin:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def shown_progress() -> Iterator[ProgressProtocol]:
    """Progress on standard error, in the form that it can show; of several processes, of the main one."""
    if not is_main():
        yield Silent()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        shown = Bars(bars)
        yield shown
        shown.finish()
