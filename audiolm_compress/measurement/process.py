"""Starts the measuring process, shows its progress and reads its result.

Of several processes of ``accelerate launch``, each starts one. That of the main process measures as if it
were alone: the others wait until it has timed the model, all answer their share of the clips, and it waits in
turn until they have ended before it times transformers' ``generate``. Times and answers are those of one
process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import audiolm_compress
from audiolm_compress import errors
from audiolm_compress.errors import AudioLMError, DataError
from audiolm_compress.measurement.measurements import ClipResult, Measurements
from audiolm_compress.measurement.request import Request
from audiolm_compress.measurement.scoring import score
from audiolm_compress.measurement.settings import BenchmarkSettings, ClipSource
from audiolm_compress.passes.base import Progress, Silent
from audiolm_compress.salmonn.asking import Asking
from audiolm_compress.training import signs
from audiolm_compress.training.shards import on_main, processes, together

_WORKER = "audiolm_compress.measurement.worker"
_TAIL = 20  # lines of a broken process's output that are shown
# Variables by which processes of a launch find each other, in which the measured one has no part.
_LAUNCH = re.compile(
    r"((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|(TORCHELASTIC|ACCELERATE)_\w+)"
)
_GO, _STOP = "go", "stop"
_numbers = count()


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

    Several processes of a launch must all call it; they share the clips, and all get the measurements.

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
    state = processes()
    request = Request(
        source=str(source),
        clips=clips,
        settings=settings,
        device=device,
        seed=seed,
        allow_missing=allow_missing,
        asking=asking,
        share=(state.process_index, state.num_processes),
    )
    progress = progress or Silent()
    if state.num_processes == 1:
        found = [_run(request, name, progress)]
    else:
        state.wait_for_everyone()  # what the main one times must not be disturbed by work before it
        number = next(_numbers)  # the same in all processes, as all measure the same models
        turn = _in_turn if state.is_main_process else _after_main
        found = together(lambda: turn(request, name, progress, number))
    return on_main(lambda: _scored(found, settings, seed))


def _scored(found: Sequence[dict[str, Any]], settings: BenchmarkSettings, seed: int) -> Measurements:
    """What all processes found, the main one's first, as one."""
    measured = Measurements.from_dict(found[0]["measurements"])
    answers = {
        place: ClipResult.from_dict(clip)
        for content in found
        for place, clip in zip(content["places"], content["clips"], strict=True)
    }
    if sorted(answers) != list(range(measured.counts["clips"])):
        raise DataError(
            f"{len(found)} processes share {measured.counts['clips']} clips, but answered {len(answers)}; "
            "give all of them the same files"
        )
    own = len(found[0]["places"])
    notes = measured.notes
    if len(found) > 1:
        shared = f"{len(found)} processes shared the answers"
        notes += (f"{shared}; peak memory is of the first, which gave {own} of {len(answers)}",)
    scores = score([answers[place] for place in sorted(answers)], seed, settings)
    return replace(
        measured,
        clips=scores.clips,
        scores=scores.scores,
        unscored=scores.unscored,
        edits=scores.edits,
        groups=scores.groups,
        counts={**measured.counts, "not_scored": scores.not_scored},
        notes=(*notes, *scores.notes),
    )


def _in_turn(request: Request, name: str, progress: Progress, number: int) -> dict[str, Any]:
    """Measure in the main process, and let the others answer when nothing is being timed."""

    def paused(moment: str) -> None:
        if moment == "timed":
            signs.leave(f"timed {number}", _GO)
        else:
            for index in range(1, request.share[1]):
                signs.awaited(f"answered {number} {index}")

    try:
        return _run(request, name, progress, paused)
    except BaseException:
        signs.leave(f"timed {number}", _STOP)
        raise


def _after_main(request: Request, name: str, progress: Progress, number: int) -> dict[str, Any]:
    """Answer this process's share once the main one has timed the model."""
    if signs.awaited(f"timed {number}") == _STOP:
        return {}
    try:
        return _run(request, name, progress)
    finally:
        signs.leave(f"answered {number} {request.share[0]}")


def _run(
    request: Request, name: str, progress: Progress, paused: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """What the measured process writes; ``paused`` is called where it waits, and lets it go on."""
    with tempfile.TemporaryDirectory(prefix="audiolm_compress_") as folder, tempfile.TemporaryFile() as log:
        request_file, result_file = Path(folder, "request.json"), Path(folder, "result.json")
        request_file.write_text(request.model_dump_json(), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, str(request_file), str(result_file)],
            stdin=subprocess.DEVNULL if paused is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env=_environment(),
        )
        try:
            _follow(process, name, progress, paused)
            code = process.wait()
        finally:
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            process.kill()
            process.wait()
        if code not in (0, 2) or not result_file.exists():
            raise AudioLMError(_broken(request, name, code, log))
        content = json.loads(result_file.read_text(encoding="utf-8"))
    if "error" in content:
        kind = getattr(errors, content["error"]["type"], AudioLMError)
        raise kind(f"measuring the {name}: {content['error']['message']}")
    return dict(content)


def _environment() -> dict[str, str]:
    """That of this process without a launcher's, and with this package importable however it was found."""
    root = str(Path(audiolm_compress.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {name: value for name, value in os.environ.items() if not _LAUNCH.fullmatch(name)}
    return own | {"PYTHONPATH": os.pathsep.join(paths)}


def _follow(
    process: subprocess.Popen[str], name: str, progress: Progress, paused: Callable[[str], None] | None
) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            message = json.loads(line)
            if "start" in message:
                progress.start(f"{name}: {message['start']}", message["total"])
            elif "advance" in message:
                progress.advance(message["advance"])
            elif paused is not None and process.stdin is not None:
                paused(message["pause"])
                with suppress(BrokenPipeError):  # it has been killed, which its exit code will tell
                    process.stdin.write("\n")
                    process.stdin.flush()


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
