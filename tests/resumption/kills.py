"""A run that is killed at random moments and goes on each time ends with the bits of one that was left alone.

    OMP_NUM_THREADS=1 python -m tests.resumption.kills --kills 20 --out benchmarks/results/kills.json

The small Llama set is compressed by four passes, one of them calibrated and one that trains. Each moment is a
stage, the furthest that the run has come to or the next, and a share of the time that it took undisturbed;
there SIGKILL ends the process. When a run has come to its end, its folder is compared and the next begins
anew, until all kills are done. Nothing but the stage that was running may be computed again: to see that,
stages are kept here that a run of one's own does not keep, as they are quicker than writing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which optimizers load late: here once, and not in every child

from audiolm_compress import kept_stages
from audiolm_compress.pass_loop import compressed
from audiolm_compress.passes.base import Silent
from audiolm_compress.pipeline import apply_recipe
from audiolm_compress.recipe import load_recipe
from audiolm_compress.run_data import load_calibration
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.stage_keys import stage_keys

from .decisions import decided

PARITY = Path(__file__).parents[1] / "fixtures" / "upstream_parity" / "llama"
TEXTS = ("the quick brown fox", "a dog barks while rain falls", "one two three", "birds sing")
PASSES = ("merge_lora", "gptq", "scale_recovery", "quantize_embedding")
COMPARED, MEASURING = "loading what was saved, and comparing the two", "measuring"
STAGES = ("reading the clips", "rehearsal", *PASSES, COMPARED, MEASURING)
_LOOKING = 2  # stages that only look at the input: part of every process
_ABOUT_TIME = re.compile(r"seconds|_s$|latency|rate|energy|memory|environment|batches|source")
_PASS = re.compile(r"pass \d+ of \d+: (\w+)")


def write_recipe(folder: Path) -> dict[str, Any]:
    """A recipe over four clips in ``folder``, measured as shortly as possible."""
    entries = []
    for index, text in enumerate(TEXTS):
        name = f"clip{index}.wav"
        shutil.copy(PARITY / "audio" / "clip1.wav", folder / name)
        task = ("asr", "audiocaption")[index % 2]
        entries.append({"path": name, "text": text, "task": task, "testset_id": name})
    baseline = load_model(PARITY / "config.yaml")
    baseline.decode = {
        "default": baseline.decode_settings("asr", max_new_tokens=2)
    }  # it never ends by itself
    store.save(baseline, folder / "baseline")
    (folder / "clips.json").write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    clips = str(folder / "clips.json")
    return {
        "name": "killed",
        "baseline": str(folder / "baseline"),
        "data": {"calibration": clips, "test": clips},
        "passes": [
            {"pass": "merge_lora"},
            {"pass": "gptq", "bits": 4, "group_size": 32},
            {"pass": "scale_recovery", "parts": ["llm"], "steps": 3, "clips": 4, "batch_size": 2},
            {"pass": "quantize_embedding"},
        ],
        "benchmark": {
            "batch_size": 2,
            "max_clips": 2,
            "decode": {"asr": {"max_new_tokens": 2}, "aac": {"max_new_tokens": 2}},
            "latency": {"clips": 1, "warmup": 0, "rounds": 1, "transformers": False, "batch_sizes": []},
            "noise_protocol": {"warmup": 0, "iterations": 1},
        },
    }


class Log(Silent):
    """Writes every stage to a file as it begins; the last line says what a killed process was at."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def stage(self, name: str) -> None:
        """Add a line."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(f"{name}\n")


@dataclass
class Attempt:
    """One process of a run.

    Attributes:
        began: names of ``STAGES`` that it computed, in order.
        taken: what it did not compute again, in words.
        seconds: from the beginning of each stage to that of the next, or to the end.
        killed: whether it was.
    """

    began: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    killed: bool = False

    def is_at(self, stage: str) -> bool:
        """Whether it has come to ``stage``, or further."""
        return bool(self.began) and STAGES.index(self.began[-1]) >= STAGES.index(stage)

    def read(self, log: Path) -> None:
        """Take over what a process has written to its log so far."""
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        self.taken = [line.partition(": taken")[0] for line in lines if ": taken" in line]
        names = [
            found[1] if (found := _PASS.match(line)) else line for line in lines if ": taken" not in line
        ]
        for name in names[len(self.began) :]:
            self.began.append(name)
            self.seconds[name] = time.monotonic()

    def end(self) -> None:
        """Make durations of the moments at which stages began."""
        ends = [*list(self.seconds.values())[1:], time.monotonic()]
        self.seconds = {n: end - begin for (n, begin), end in zip(self.seconds.items(), ends, strict=True)}


def run(recipe: Mapping[str, Any], out: Path, log: Path) -> None:
    """All of it."""
    apply_recipe(recipe, out=out, device="cpu", progress=Log(log))


def passes_alone(recipe: Mapping[str, Any], out: Path, log: Path) -> None:
    """Without rehearsal and measurements, which are most of the time: leaves the kept model and no result."""
    entries, progress = load_recipe(recipe), Log(log)
    progress.stage(STAGES[0])
    clips = load_calibration(entries, progress)
    keys = stage_keys(entries, load_model(entries.baseline), clips, ())
    with kept_stages.stages_of(out, True, progress) as stages:
        compressed(entries, keys, clips, (), "cpu", progress, stages)


def attempt(
    work: Callable[[Mapping[str, Any], Path, Path], None],
    recipe: Mapping[str, Any],
    out: Path,
    log: Path,
    moment: tuple[str, float] | None = None,
) -> Attempt:
    """Do ``work`` in a process of its own.

    Args:
        work: on the recipe, the folder and the log.
        recipe: to run.
        out: its folder.
        log: is written anew.
        moment: to kill the process at: when this one of ``STAGES``, or a later one, has run for so many
            seconds. None leaves it alone.
    """
    log.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _work(work, recipe, out, log)
    made, deadline, status = Attempt(), float("inf"), 0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        made.read(log)
        if done:
            break
        if moment is not None and deadline == float("inf") and made.is_at(moment[0]):
            deadline = time.monotonic() + moment[1]
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            made.read(log)
            break
        time.sleep(0.002)
    made.killed = os.WIFSIGNALED(status)
    if not made.killed and status != 0:
        raise RuntimeError(f"a process failed by itself: {log.with_suffix('.txt').read_text()}")
    made.end()
    return made


def _work(
    work: Callable[[Mapping[str, Any], Path, Path], None], recipe: Mapping[str, Any], out: Path, log: Path
) -> None:
    """In the child: never returns."""
    code = 1
    try:
        with log.with_suffix(".txt").open("w") as stream:
            os.dup2(stream.fileno(), 2)
        kept_stages._LEAST = float("-inf")  # every stage is kept, also one that is quicker than writing
        work(recipe, out, log)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def done_again(attempts: Sequence[Attempt]) -> list[str]:
    """Stages that were computed again although a process before had come to the next one.

    Those at the beginning, which only look at the input, are part of every process.
    """
    furthest, again = _LOOKING, []
    for one in attempts:
        places = [STAGES.index(name) for name in one.began]
        again += [STAGES[place] for place in places if _LOOKING <= place < furthest]
        furthest = max([furthest, *places])
    return again


def differences(one: Path, other: Path) -> list[str]:
    """In what two results differ, other than in times and in what was taken from a killed run."""
    names = {path.name for folder in (one, other) for path in folder.iterdir()}
    found = []
    for name in sorted(names - {"report.json", "report.md", "report.html", "README.md"}):
        sides = [folder / name for folder in (one, other)]
        if not all(side.exists() for side in sides) or sides[0].read_bytes() != sides[1].read_bytes():
            found.append(name)
    if "report.json" in names:
        reports = [_timeless(json.loads((side / "report.json").read_text("utf-8"))) for side in (one, other)]
        found += ["report.json"] if reports[0] != reports[1] else []
    return found


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            key: _timeless(value)
            for key, value in content.items()
            if not _ABOUT_TIME.search(key) and key not in ("notes", "goals")
        }
    return [_timeless(value) for value in content] if isinstance(content, list) else content


def campaign(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill a run ``kills`` times; what came of it.

    Args:
        kills: how often.
        seed: of the moments.
        folder: for everything that is written.
    """
    chance, recipe, log = random.Random(seed), write_recipe(folder), folder / "log"
    whole = folder / "whole" / "killed"
    undisturbed = attempt(run, recipe, whole, log)
    killed: Counter[str] = Counter()
    again: list[str] = []
    differ: list[str] = []
    taken, amid_writing, runs = 0, 0, 0
    while killed.total() < kills:
        out, attempts = folder / f"run{runs}" / "killed", []
        while not attempts or attempts[-1].killed:
            furthest = max((STAGES.index(name) for one in attempts for name in one.began), default=0)
            stage = chance.choice(STAGES[furthest : furthest + 2])
            moment = (stage, chance.random() * undisturbed.seconds[stage])
            attempts.append(attempt(run, recipe, out, log, moment if killed.total() < kills else None))
            taken += len(attempts[-1].taken)
            if attempts[-1].killed:
                killed[attempts[-1].began[-1]] += 1
                amid_writing += any(out.parent.glob(".killed.stages/.*.partial"))
                print(f"killed at: {attempts[-1].began[-1]}", flush=True)
        again += done_again(attempts)
        differ += differences(whole, out)
        differ += [str(path) for path in out.parent.iterdir() if path != out]  # nothing else is left
        runs += 1
    return {
        "kills": killed.total(),
        "seed": seed,
        "runs": runs,
        "killed_at": {name: killed[name] for name in STAGES},
        "killed_amid_writing": amid_writing,
        "taken": taken,
        "computed_again": again,
        "different": differ,
    }


def short(folder: Path) -> dict[str, Any]:
    """Passes alone, killed amid each of the three that follow the first; the form is that of ``campaign``.

    And what two processes of a launch decide about stages.
    """
    recipe, log = write_recipe(folder), folder / "log"
    folders = [folder / name for name in ("whole", "killed")]
    whole = attempt(passes_alone, recipe, folders[0], log)
    moments = [(stage, whole.seconds[stage] / 2) for stage in PASSES[1:]]
    attempts = [attempt(passes_alone, recipe, folders[1], log, moment) for moment in (*moments, None)]
    kept = [next(folder.glob(f".{out.name}.stages/pass4-*/")) for out in folders]
    return {
        "killed_at": [one.began[-1] for one in attempts if one.killed],
        "taken": [what for one in attempts for what in one.taken],
        "computed_again": done_again(attempts),
        "different": differences(*kept),
        "decided": decided(folder),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the campaign and write its counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="0: the short version, three kills amid passes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(asked.kills, asked.seed, Path(folder)) if asked.kills else short(Path(folder))
    found |= {"passes": PASSES, "python": platform.python_version(), "torch": torch.__version__}
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
