"""Runs of two processes that are killed and go on: what one takes from the disk, all take.

    python -m tests.resumption.launches RECIPE OUT LOG     one process of a run; to be started by accelerate

The run and its moments are those of ``kills.py``. There the whole launch is killed, launcher included, by
SIGKILL; or one process of it, as by a system that is out of memory, upon which the launcher ends the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from audiolm_compress import kept_stages
from audiolm_compress.pipeline import apply_recipe
from audiolm_compress.training.shards import disband, processes

from .kills import Attempt, Log

ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
_PROGRAM = ("-m", "tests.resumption.launches")
_LONGEST = 300.0  # seconds; a launch in which one waits for another forever must not hang the tests


def program(recipe: Path, out: Path, log: Path) -> None:
    """A process of a launch: every one has a log of its own, and every stage is kept."""
    kept_stages._LEAST = float("-inf")
    own = log.with_name(f"{log.name}{processes().process_index}")
    apply_recipe(json.loads(recipe.read_text("utf-8")), out=out, device="cpu", progress=Log(own))
    disband()


def attempt(
    recipe: Mapping[str, Any],
    out: Path,
    log: Path,
    moment: tuple[str, float] | None = None,
    victim: int | None = None,
) -> list[Attempt]:
    """Start a launch; what each of its processes did.

    Args:
        recipe: to run.
        out: its folder.
        log: beginning of the names of the logs, which are written anew.
        moment: to kill at, as of ``kills.attempt``, by the log of the main process.
        victim: the one process to kill; None: all and the launcher.
    """
    logs = [log.with_name(f"{log.name}{index}") for index in (0, 1)]
    for file in logs:
        file.unlink(missing_ok=True)
    content = log.with_suffix(".json")
    content.write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, *LAUNCH, *_PROGRAM, str(content), str(out), str(log)]
    place = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    told = log.with_suffix(".txt")
    made, deadline = [Attempt(), Attempt()], float("inf")
    with told.open("w") as stream:
        launcher = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | place, stdout=stream, stderr=stream, start_new_session=True
        )
    latest = time.monotonic() + _LONGEST
    while launcher.poll() is None:
        for one, file in zip(made, logs, strict=True):
            one.read(file)
        if moment is not None and deadline == float("inf") and made[0].is_at(moment[0]):
            deadline = time.monotonic() + moment[1]
        if time.monotonic() >= latest or (time.monotonic() >= deadline and not made[0].killed):
            _kill(launcher.pid, victim)
            for one in made:
                one.killed = True
        time.sleep(0.002)
    for one, file in zip(made, logs, strict=True):
        one.read(file)
        one.end()
    if time.monotonic() >= latest:
        raise RuntimeError(f"a launch did not end: {told.read_text()[-3000:]}")
    if launcher.returncode and not made[0].killed:
        raise RuntimeError(f"a launch failed by itself: {told.read_text()[-3000:]}")
    return made


def _kill(launcher: int, victim: int | None) -> None:
    """Kill a launch with all that its processes have started, or one process and what that has."""
    with suppress(psutil.NoSuchProcess):
        whole = psutil.Process(launcher)
        for one in (whole, *whole.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                if victim is None or one.environ().get("RANK") == str(victim):
                    one.kill()


if __name__ == "__main__":
    program(*map(Path, sys.argv[1:]))
