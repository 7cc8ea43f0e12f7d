"""The stages of a run, kept beside its folder until it is done, so that a run that was cut off goes on.

    out/small                    what was there before, until the run is done
    out/.small.stages/
        lock                     held by the process that works here
        pass3-KEY/               the model after the third pass
        pass3-KEY.json           what passes 1 to 3 did; written last: a folder without it is unfinished
        measured-KEY.json        measurements

A stage is found by what its outcome depends on (``stage_keys.py``), never by its place alone. Whatever is
written appears by a rename once the disk has it. Only the newest model is kept, and only if making it took
longer than writing it will: a pass that is quicker than that is done again. The last is the model that all
passes leave; measured where it lies, it becomes the result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from audiolm_compress.errors import AudioLMError, MachineError
from audiolm_compress.faults import explained
from audiolm_compress.folders import take_place
from audiolm_compress.locked import locked
from audiolm_compress.passes.base import Progress
from audiolm_compress.report import Step
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.stage_keys import tensors_digest
from audiolm_compress.training.checkpoint import write_whole
from audiolm_compress.training.shards import on_main, together

Value = TypeVar("Value")
_RATE = 200e6  # bytes a second that a plain disk writes; on a faster one keeping only costs less
_LEAST = 0.5  # seconds that even a small model takes to be written, its tokenizer included
_LOCK = "lock"
_FORMER = "former"  # what was at the target, while it and the result change places


@dataclass
class Stages:
    """What a run has kept, and keeps. Processes of a launch call its methods in step; the main one writes.

    Attributes:
        folder: of the stages.
        target: of the run.
        lasting: whether they outlive a run that is cut off.
        progress: is told what is taken.
        taken: stages that were not computed again, in words.
    """

    folder: Path
    target: Path
    lasting: bool
    progress: Progress
    taken: list[str] = field(default_factory=list)
    _until: int = 0  # the pass whose model is kept
    _published: bool = False

    def newest(self, keys: Sequence[str]) -> list[Step]:
        """What the passes did that need not be done again: those up to the newest model that is kept.

        Args:
            keys: of the baseline and of what each pass leaves.
        """

        def read() -> list[Step]:
            for position in range(len(keys) - 1, 0, -1):
                record = self._record(position, keys[position])
                if record.exists() and store.is_model_folder(record.with_suffix("")):
                    return [Step(**step) for step in json.loads(record.read_text("utf-8"))["steps"]]
            return []

        return on_main(read)

    def load(self, keys: Sequence[str], steps: Sequence[Step], device: str) -> Salmonn:
        """The model that passes left, bit by bit. What one process cannot take, none of a launch takes.

        Args:
            keys: as of ``newest``.
            steps: what these passes did.
            device: of the model.

        Raises:
            AudioLMError: it is not what was kept; the next run begins without it.
        """
        position = len(steps)
        record = self._record(position, keys[position])
        which = "pass 1" if position == 1 else f"passes 1 to {position}"
        self._take(which)
        self._until = position
        expected = on_main(lambda: json.loads(record.read_text("utf-8"))["tensors"])
        read: list[Salmonn] = []

        def take() -> None:
            with explained(record):
                read.append(load_model(record.with_suffix(""), device=device))
                if tensors_digest(read[0]) != expected:
                    raise AudioLMError(
                        f"what was kept of {which} in {record.with_suffix('')} has changed since"
                    )

        with self.valid(keys, position):
            together(take)
        return read[0]

    @contextmanager
    def valid(self, keys: Sequence[str], position: int) -> Iterator[None]:
        """Inside, an error means that what was kept of the pass at ``position`` must not be taken again.

        Raises:
            AudioLMError: the same, and what comes of it.
        """
        try:
            yield
        except MachineError:
            raise
        except AudioLMError as error:
            self._record(position, keys[position]).unlink(missing_ok=True)
            raise type(error)(f"{error}; the same command begins without it") from error

    def keep(self, keys: Sequence[str], steps: Sequence[Step], model: Salmonn) -> None:
        """Write the model that passes left, if what would be lost without it took longer than that will.

        What all passes leave is always written. Models of passes before are removed.

        Args:
            keys: as of ``newest``.
            steps: what these passes did.
            model: after them.

        Raises:
            MachineError: it cannot be written.
        """
        record = self._record(len(steps), keys[len(steps)])
        folder = record.with_suffix("")

        def dear() -> bool:
            spent = sum(step.seconds for step in steps[self._until :])
            return self.lasting and spent > _LEAST + sum(model.weight_bytes().values()) / _RATE

        def write() -> None:
            content = {"steps": [asdict(step) for step in steps], "tensors": tensors_digest(model)}
            with explained(folder):
                store.save(model, folder)
                self._write(record, content)
            for path in self.folder.glob("pass*"):
                if path not in (record, folder):
                    _remove(path)

        if len(steps) == len(keys) - 1 or on_main(dear):
            on_main(write)
            self._until = len(steps)

    def model_folder(self, keys: Sequence[str], position: int) -> Path:
        """Where the model after the pass at ``position`` is or will be."""
        return self._record(position, keys[position]).with_suffix("")

    def recalled(
        self,
        what: str,
        key: str,
        compute: Callable[[], Value],
        to_json: Callable[[Value], Any],
        from_json: Callable[[Any], Value],
    ) -> Value:
        """What was computed by an earlier process, or else is now, and kept.

        Args:
            what: is computed, in words.
            key: of all that it depends on.
            compute: is called by all processes of a launch.
            to_json: its JSON form.
            from_json: the way back, to an equal value.
        """
        file = self.folder / f"measured-{key}.json"
        if on_main(file.exists):
            self._take(what)
            return from_json(on_main(lambda: json.loads(file.read_text(encoding="utf-8"))))
        value = compute()

        def write() -> None:
            with explained(file):
                self._write(file, to_json(value))

        on_main(write)
        return value

    def publish(self, folder: Path) -> None:
        """Let a folder of a model become the result; then nothing more needs to be kept."""
        with explained(self.target):
            take_place(folder, self.target, store.is_model_folder, self.folder / _FORMER)
        self._published = True
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self) -> None:
        """Clear away what a killed process left unfinished. The lock must be held."""
        former = self.folder / _FORMER
        if former.exists() and not self.target.exists():  # it was killed between the two renames
            former.rename(self.target)
        if not self.lasting:
            self._clear()
        for path in self.folder.iterdir():
            unfinished = path.is_dir() and not self._finished(path)
            if unfinished or path.suffix == ".new":
                _remove(path)

    def close(self) -> None:
        """Leave the folder only if there is something in it to go on from."""
        if not self._published and not (self.lasting and self._kept()):
            shutil.rmtree(self.folder, ignore_errors=True)

    def kept(self) -> str:
        """How to go on after the run was cut off; "" if nothing is kept."""
        kept = self._kept() if self.lasting else []
        where = f"kept in {self.folder}: the same command goes on from there"
        return f"{' and '.join(kept)}, {where}" if kept else ""

    def _kept(self) -> list[str]:
        positions = [self._position(path) for path in self.folder.glob("pass*.json")]
        kept = [f"the model after pass {max(positions)}"] if positions else []
        if any(self.folder.glob("measured-*.json")):
            kept.append("what was measured")
        return kept

    def _take(self, which: str) -> None:
        self.taken.append(which)
        self.progress.stage(f"{which}: taken from the run that was cut off")

    def _record(self, position: int, key: str) -> Path:
        return self.folder / f"pass{position}-{key}.json"

    @staticmethod
    def _position(record: Path) -> int:
        return int(record.name.removeprefix("pass").partition("-")[0])

    @staticmethod
    def _finished(folder: Path) -> bool:
        return folder.with_name(f"{folder.name}.json").exists()

    @staticmethod
    def _write(file: Path, content: Any) -> None:
        write_whole(file, lambda stream: stream.write(json.dumps(content).encode()))

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                _remove(path)


def stages_folder(target: Path) -> Path:
    """Where the stages of the run that writes ``target`` are."""
    whole = target.resolve()
    return whole.with_name(f".{whole.name}.stages")


@contextmanager
def stages_of(target: Path, lasting: bool, progress: Progress) -> Iterator[Stages]:
    """The stages of the run that writes ``target``; no other process may do so meanwhile.

    Args:
        target: of the run.
        lasting: keep them when the run is cut off; else nothing is taken from an earlier one, either.
        progress: is told what is taken.

    Raises:
        AudioLMError: another process writes ``target``, or it cannot be written.
        KeyboardInterrupt: as inside, with how to go on.
    """
    stages = Stages(stages_folder(target), target, lasting, progress)
    with ExitStack() as stack:

        def begin() -> None:
            with explained(target):
                stack.enter_context(locked(stages.folder / _LOCK, f"output {target}"))
                stages.open()
            stack.callback(stages.close)

        on_main(begin)
        try:
            yield stages
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(stages.kept()) from interrupt
        except AudioLMError:
            if kept := stages.kept():
                progress.note(kept)
            raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
