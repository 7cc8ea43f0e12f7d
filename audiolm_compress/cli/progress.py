"""Shows how far the work is: a live view on a terminal (``live.py``), plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from audiolm_compress.cli.launched import is_main
from audiolm_compress.cli.live import Live, Shared, unbroken
from audiolm_compress.passes.base import Progress as ProgressProtocol
from audiolm_compress.passes.base import Silent


class Lines:
    """A line when work starts and every quarter of it, with the seconds since the run began."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._description = ""
        self._total, self._done = 1, 0
        self._figures: dict[str, float] = {}

    def stage(self, name: str) -> None:
        """Say what begins."""
        self._say(name)

    def start(self, description: str, total: int) -> None:
        """Say what begins."""
        self._description, self._total, self._done, self._figures = description, max(total, 1), 0, {}
        self._say(f"  {description}")

    def advance(self, steps: int = 1) -> None:
        """Say so when another quarter is done."""
        quarter = 4 * self._done // self._total
        self._done += steps
        if self._total >= 4 and 4 * self._done // self._total > quarter:
            figures = [f"{name} {value:.4f}" for name, value in self._figures.items()]
            self._say(f"  {self._description}: {', '.join([f'{self._done}/{self._total}', *figures])}")

    def figure(self, name: str, value: float) -> None:
        """Keep it for the next line."""
        self._figures[name] = value

    def note(self, text: str) -> None:
        """Say it."""
        self._say(f"  = {text}")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begin:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def shown_progress(quiet: bool = False) -> Iterator[ProgressProtocol]:
    """Progress on standard error, in the form that it can show; of several processes, of the main one."""
    if quiet or not is_main():
        yield Silent()
        return
    console = Shared(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines()
        return
    with Live(console) as live, unbroken():
        yield live
