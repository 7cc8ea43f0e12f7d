"""The measured process's word to the one that started it."""

from __future__ import annotations

import json
from typing import Any, TextIO


class Reporter:
    """Sends progress to the parent process, and waits for its word.

    Args:
        stream: takes one JSON object a line.
        replies: where the parent answers a pause; without it there are none.
    """

    def __init__(self, stream: TextIO, replies: TextIO | None = None) -> None:
        self._stream = stream
        self._replies = replies

    def start(self, description: str, total: int, *, in_turns: bool = False) -> None:
        """A line of ``total`` steps begins; ``in_turns``, other models go through the same one meanwhile."""
        self._send({"start": description, "total": total, "in_turns": in_turns})

    def advance(self, count: int = 1) -> None:
        """``count`` steps are done."""
        self._send({"advance": count})

    def loaded(self, held: int, free: int | None) -> None:
        """The model is in memory: bytes that this process holds, and that the device has left."""
        self._send({"held": held, "free": free})

    def pause(self, moment: str) -> None:
        """Say how far the work is and wait until it may go on.

        Raises:
            SystemExit: the parent is gone, and nobody waits for a result.
        """
        assert self._replies is not None
        self._send({"pause": moment})
        if not self._replies.readline():
            raise SystemExit(1)

    def _send(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._stream, flush=True)
