"""One measuring process: from start to result, from pause to pause."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import audiolm_compress
from audiolm_compress import errors
from audiolm_compress.errors import AudioLMError
from audiolm_compress.measurement.request import Request
from audiolm_compress.passes.base import Progress

_WORKER = "audiolm_compress.measurement.worker"
_TAIL = 20  # lines of a broken process's output that are shown
# Variables by which processes of a launch find each other, in which the measured one has no part.
_LAUNCH = re.compile(
    r"((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|(TORCHELASTIC|ACCELERATE)_\w+)"
)


class Shown:
    """The progress of models that are measured together: one line for what all of them go through in turns.

    Args:
        progress: takes the lines.

    Attributes:
        names: of the models.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._common: str | None = None
        self.names: list[str] = []

    def start(self, name: str, message: dict[str, Any]) -> None:
        """A line of one model, or of all where it is theirs in turns and is not there yet."""
        what, total = message["start"], message["total"]
        if not message["in_turns"]:
            self._common = None
            self._progress.start(f"{name}: {what}", total)
        elif what != self._common:
            self._common = what
            names = self.names
            who = " and ".join(names) if len(names) < 3 else f"{len(names)} models"
            self._progress.start(f"{who}: {what}", total * len(names))

    def advance(self, count: int) -> None:
        """``count`` steps are done of the line that was started last."""
        self._progress.advance(count)


class Running:
    """A measuring process. It starts with the first ``proceed``, and is ended where the block ends.

    Args:
        request: what it is to do.
        name: what progress and messages call the model.
        shown: where its progress goes.

    Attributes:
        held: bytes that it holds of the device's memory since the model is loaded.
        free: bytes that were free then; None if the system does not say.
        result: what it has written, when it has ended.
    """

    def __init__(self, request: Request, name: str, shown: Shown) -> None:
        self._request, self._name, self._shown = request, name, shown
        self._folder = tempfile.TemporaryDirectory(prefix="audiolm_compress_")
        self._process: subprocess.Popen[str] | None = None
        self.held = 0
        self.free: int | None = None
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(BrokenPipeError):
                    if stream is not None:
                        stream.close()
        self._folder.cleanup()

    def proceed(self) -> str | None:
        """Let it work until it pauses.

        Returns:
            Where it has paused; None if it has ended and ``result`` is there.

        Raises:
            AudioLMError: what went wrong in the process, under its own type, or that the process was killed.
        """
        if self._process is None:
            self._process = self._start()
        else:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # it has been killed, which its exit code will tell
                self._process.stdin.write("\n")
                self._process.stdin.flush()
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "pause" in message:
                return str(message["pause"])
            if "held" in message:
                self.held, self.free = message["held"], message["free"]
            elif "start" in message:
                self._shown.start(self._name, message)
            else:
                self._shown.advance(message["advance"])
        self.result = self._read(self._process.wait())
        return None

    def _read(self, code: int) -> dict[str, Any]:
        file = self._file("result.json")
        if code not in (0, 2) or not file.exists():
            raise AudioLMError(self._broken(code))
        content = json.loads(file.read_text(encoding="utf-8"))
        if "error" in content:
            kind = getattr(errors, content["error"]["type"], AudioLMError)
            raise kind(f"measuring the {self._name}: {content['error']['message']}")
        return dict(content)

    def _start(self) -> subprocess.Popen[str]:
        request, result, log = (self._file(name) for name in ("request.json", "result.json", "log.txt"))
        request.write_text(self._request.model_dump_json(), encoding="utf-8")
        with log.open("wb") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(request), str(result)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                encoding="utf-8",
                env=_environment(),
            )

    def _file(self, name: str) -> Path:
        return Path(self._folder.name, name)

    def _broken(self, code: int) -> str:
        log = self._file("log.txt").read_text(encoding="utf-8", errors="replace")
        output = log.strip().splitlines()[-_TAIL:]
        todo = "a smaller benchmark.batch_size"
        if self._request.in_turns:
            todo += ", or benchmark.latency.interleave: false"
        if code < 0:
            cause = f"was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                cause += f", as the system does when memory runs out; try {todo}"
        else:
            cause = f"ended with code {code}"
        lines = "\n".join(f"  {line}" for line in output)
        where = f"{self._request.source} on {self._request.device}"
        return f"measuring the {self._name} ({where}): the process {cause}" + (
            f"; its last output:\n{lines}" if lines else ""
        )


def _environment() -> dict[str, str]:
    """That of this process without a launcher's, and with this package importable however it was found."""
    root = str(Path(audiolm_compress.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {name: value for name, value in os.environ.items() if not _LAUNCH.fullmatch(name)}
    return own | {"PYTHONPATH": os.pathsep.join(paths)}
