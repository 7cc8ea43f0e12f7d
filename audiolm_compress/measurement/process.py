"""Starts the measuring process, shows its progress and reads its result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import audiolm_compress
from audiolm_compress import errors
from audiolm_compress.errors import AudioLMError
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.measurement.quality import score
from audiolm_compress.measurement.request import Request
from audiolm_compress.measurement.settings import BenchmarkSettings, ClipSource
from audiolm_compress.passes.base import Progress, Silent
from audiolm_compress.salmonn.asking import Asking

_WORKER = "audiolm_compress.measurement.worker"
_TAIL = 20  # lines of a broken process's output that are shown


def measure(
    source: str | Path,
    clips: ClipSource,
    settings: BenchmarkSettings,
    *,
    device: str = "cpu",
    seed: int = 0,
    name: str = "model",
    allow_missing: bool = False,
    asking: Asking | None = None,
    progress: Progress | None = None,
) -> Measurements:
    """Measure one model in a fresh process and score its answers.

    Args:
        source: anything that ``load_model`` takes.
        clips: test clips.
        settings: how to measure.
        device: where the model runs.
        seed: of the noise, of sampling and of the bootstrap intervals.
        name: what progress and messages call the model, such as ``baseline``.
        allow_missing: see ``load_model``.
        asking: prompts and decode settings in the place of the model's own.
        progress: where to show the state.

    Raises:
        AudioLMError: what went wrong in the process, under its own type (``DataError`` for bad clips,
            ``BaselineError`` for an unusable model), or that the process was killed.
    """
    request = Request(
        source=str(source),
        clips=clips,
        settings=settings,
        device=device,
        seed=seed,
        allow_missing=allow_missing,
        asking=asking,
    )
    measured = _run(request, name, progress or Silent())
    scores = score(measured.clips, seed)
    return replace(
        measured,
        clips=scores.clips,
        wer=scores.wer,
        cider_d=scores.cider_d,
        spider=scores.spider,
        spider_note=scores.spider_note,
        intervals=scores.intervals,
        counts={**measured.counts, "not_scored": scores.not_scored},
        notes=(*measured.notes, *scores.notes),
    )


def _run(request: Request, name: str, progress: Progress) -> Measurements:
    with tempfile.TemporaryDirectory(prefix="audiolm_compress_") as folder, tempfile.TemporaryFile() as log:
        request_file, result_file = Path(folder, "request.json"), Path(folder, "result.json")
        request_file.write_text(request.model_dump_json(), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, str(request_file), str(result_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env=_environment(),
        )
        try:
            _follow(process, name, progress)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if code not in (0, 2) or not result_file.exists():
            raise AudioLMError(_broken(request, name, code, log))
        content = json.loads(result_file.read_text(encoding="utf-8"))
    if "error" in content:
        kind = getattr(errors, content["error"]["type"], AudioLMError)
        raise kind(f"measuring the {name}: {content['error']['message']}")
    return Measurements.from_dict(content["measurements"])


def _environment() -> dict[str, str]:
    """That of this process, with this package importable even if it was found through ``sys.path`` alone."""
    root = str(Path(audiolm_compress.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _follow(process: subprocess.Popen[str], name: str, progress: Progress) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            message = json.loads(line)
            if "start" in message:
                progress.start(f"{name}: {message['start']}", message["total"])
            else:
                progress.advance(message["advance"])


def _broken(request: Request, name: str, code: int, log: BinaryIO) -> str:
    log.seek(0)
    output = log.read().decode("utf-8", "replace").strip().splitlines()[-_TAIL:]
    if code < 0:
        cause = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            cause += ", as the system does when memory runs out; try a smaller benchmark.batch_size"
    else:
        cause = f"ended with code {code}"
    lines = "\n".join(f"  {line}" for line in output)
    return f"measuring the {name} ({request.source} on {request.device}): the process {cause}" + (
        f"; its last output:\n{lines}" if lines else ""
    )
