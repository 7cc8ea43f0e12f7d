"""The live view of a run on a terminal.

    ✓ pass 5 of 9: cast                31.49 MiB; cast speech_encoder, audio_encoder,     0.8 s
                                       connector to bfloat16
    ▸ pass 6 of 9: quantize_encoder                                                       4.1 s
      calibration                     ━━━━━━━━━━━━━━━━━━━━╸          41/70  about 3.1 s left
      17 s since the start

What is done is printed once and scrolls up like any output; the stage that runs stands below and moves. The
time left is of its present line alone, from the rate of that line so far: how long other lines will take,
nothing here knows. ``plan`` estimates whole runs.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, RLock, Thread
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as Region
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_NAME_WIDTH = 32  # as wide as the longest pass with its number
_BAR_WIDTH = 30
_REFRESH_SECONDS = 0.125
_EARLIEST = 1.0  # seconds after which a rate is believed


class Line:
    """One kind of work within a stage, of ``total`` equal steps."""

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.done = description, max(total, 1), 0
        self.figures: dict[str, float] = {}
        self._begin = time.monotonic()

    def seconds_left(self) -> float | None:
        """By the rate so far; None while there is none, or if the end is not known."""
        passed = time.monotonic() - self._begin
        if not 0 < self.done < self.total or passed < _EARLIEST:
            return None
        return passed * (self.total - self.done) / self.done

    def __rich__(self) -> RenderableType:
        """Description, bar, count and time left; figures below."""
        row = Table.grid(padding=(0, 1))
        row.add_column(width=2)
        row.add_column(max_width=_NAME_WIDTH - 1)
        row.add_column(width=_BAR_WIDTH, ratio=1)
        row.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=self.total, completed=self.done, pulse=self.total == 1, width=None)
        left = self.seconds_left()
        count = "" if self.total == 1 else f"{min(self.done, self.total)}/{self.total}"
        if left is not None:
            count += f"  about {duration(left)} left"
        row.add_row("", self.description, bar, count)
        figures = "   ".join(f"{name} {value:.4f}" for name, value in dict(self.figures).items())
        if not figures:
            return row
        return Group(row, Text(f"   {figures}", style="cyan"))


class Shared(Console):
    """A console on which threads write in turns, from working out where to write until it is written.

    Rich works out how many lines of a live view to go back, lets go of its lock and then writes: if the view
    is drawn anew in between, and has another height, lines above it are lost.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._turn = RLock()

    def __enter__(self) -> Console:
        self._turn.acquire()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._turn.release()


class Live:
    """The progress of a run, shown as above."""

    def __init__(self, console: Shared) -> None:
        self._console = console
        self._stage: str | None = None
        self._alone = False  # whether the stage is nothing but a line
        self._notes: list[str] = []
        self._line: Line | None = None
        self._begin = self._stage_begin = time.monotonic()
        self._region = Region(console=console, get_renderable=self._now, transient=True, auto_refresh=False)
        self._ended = Event()
        self._clock = Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Live:
        self._region.start()
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._clock.join()
        self._close(failed=kind is not None)
        self._region.stop()

    def stage(self, name: str) -> None:
        """Print the stage before, with its time and what it gave, and begin another."""
        self._close()
        self._alone = False
        self._stage, self._stage_begin = name, time.monotonic()

    def start(self, description: str, total: int) -> None:
        """Open a line in the place of the one before; outside of stages, it is one itself."""
        if self._stage is None or self._alone:
            self.stage(description)
            self._alone, description = True, ""
        kind = (self._stage or "").rpartition(": ")[2]
        self._line = Line(description.removeprefix(f"{kind}: "), total)  # the pass is named above

    def advance(self, steps: int = 1) -> None:
        """Move the bar of the open line."""
        if self._line is not None:
            self._line.done += steps

    def figure(self, name: str, value: float) -> None:
        """Show a figure below the open line."""
        if self._line is not None:
            self._line.figures[name] = value

    def note(self, text: str) -> None:
        """Keep it for the stage's row."""
        self._notes.append(text)

    def _close(self, failed: bool = False) -> None:
        """Print the stage that ends. One that held no work is the heading of those behind it."""
        if self._stage is None:
            return
        row: RenderableType
        if failed:
            row = self._row(self._stage, "✗", "red", "stopped here")
        elif self._line is None and not self._notes:
            row = Text(self._stage, style="bold")
        else:
            row = self._row(self._stage, "✓", "green", "\n".join(self._notes))
        self._stage, self._line, self._notes = None, None, []
        self._console.print(row)

    def _tick(self) -> None:
        """Draw the view anew; the console's turn comes first and Rich's own lock second, as in prints."""
        while not self._ended.wait(_REFRESH_SECONDS):
            with self._console:
                self._region.refresh()

    def _row(self, stage: str, mark: str, style: str, gave: str) -> Table:
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(width=1)
        row.add_column(width=_NAME_WIDTH)
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True, min_width=8)
        seconds = duration(time.monotonic() - self._stage_begin)
        row.add_row(Text(mark, style), stage, Text(gave), Text(seconds, style="dim"))
        return row

    def _now(self) -> RenderableType:
        """What moves; asked for by a thread of its own, so it looks at each thing once."""
        stage, line = self._stage, self._line
        if stage is None:
            return Text("")
        shown: list[RenderableType] = [self._row(stage, "▸", "bold cyan", "\n".join(self._notes))]
        if line is not None:
            shown.append(line)
        shown.append(Text(f"  {duration(time.monotonic() - self._begin)} since the start", style="dim"))
        return Group(*shown)


def duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> duration(7.34), duration(95), duration(4000)
    ('7.3 s', '1:35 min', '1:06 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


@contextmanager
def unbroken() -> Iterator[None]:
    """Let what libraries log appear above a live view, which has put a proxy in the place of standard error.

    Handlers that were made before it hold the stream itself, and would write into the middle of the view.
    """
    proxy = sys.stderr
    stream = getattr(proxy, "rich_proxied_file", None)
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    handlers = {
        handler
        for logger in loggers
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and stream is not None and handler.stream is stream
    }
    for handler in handlers:
        handler.setStream(proxy)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(stream)
