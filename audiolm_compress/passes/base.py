"""What a pass is, what it may use and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from pydantic import Field

from audiolm_compress.data.example import Example
from audiolm_compress.settings import Settings

if TYPE_CHECKING:
    from audiolm_compress.planning.sketch import Sketch
    from audiolm_compress.salmonn.model import Salmonn
    from audiolm_compress.training.features import FeatureCache


class Progress(Protocol):
    """Where long work says how far it is: stages, each of one line after the other.

    A progress of one's own best derives from ``Silent`` and shows what it likes to.
    """

    def stage(self, name: str) -> None:
        """Begin a part of the work, such as a pass; the one before is done."""

    def start(self, description: str, total: int) -> None:
        """Open a line of ``total`` equal steps."""

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` of the open line as done."""

    def figure(self, name: str, value: float) -> None:
        """Show a figure of the open line as it is now, such as the training loss."""

    def note(self, text: str) -> None:
        """Tell what the stage has given."""


class Silent:
    """A progress that shows nothing."""

    def stage(self, name: str) -> None:
        """Ignore the stage."""

    def start(self, description: str, total: int) -> None:
        """Ignore the line."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""

    def figure(self, name: str, value: float) -> None:
        """Ignore the figure."""

    def note(self, text: str) -> None:
        """Ignore the note."""


@dataclass(frozen=True)
class Context:
    """What a pass may use besides the model and its own settings.

    Attributes:
        calibration: clips with instruction and reference text, from training data.
        rng: seeded from the recipe's seed and the pass's position.
        reference: loads the untouched baseline on demand (a teacher).
        progress: shows the state of long work.
        training: clips of the same form that are given for learning alone; empty if none are, or if no pass
            of the recipe learns.
        features: keeps what frozen models and the baseline compute; None keeps it in memory, for one pass.
    """

    calibration: Sequence[Example]
    rng: torch.Generator
    reference: Callable[[], Salmonn]
    progress: Progress = field(default_factory=Silent)
    training: Sequence[Example] = ()
    features: FeatureCache | None = None

    @property
    def training_clips(self) -> Sequence[Example]:
        """What a pass that learns has to learn from: the training clips, or else those of calibration."""
        return self.training or self.calibration


@dataclass(frozen=True)
class PassReport:
    """What a pass did, in numbers that a reader can check.

    Attributes:
        changed: False if the model is exactly as before; the summary then says why.
        summary: one sentence.
        figures: totals, such as layers changed or bytes saved.
        modules: one row of figures per changed module.
        notes: every skip, fall-back or choice that was made for the user.
    """

    changed: bool
    summary: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    modules: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()


class Pass(Settings):
    """Base of the passes that a recipe can name.

    A subclass narrows ``kind`` to its own name, which is the key ``pass`` of its YAML entry.

    Attributes:
        learns: whether it trains on ``Context.training_clips``; a recipe's training clips are only read if
            one of its passes does.
    """

    learns: ClassVar[bool] = False
    kind: str = Field(alias="pass")

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Change ``model`` in place and tell what changed.

        Raises:
            PassError: the settings are impossible for this model.
        """
        raise NotImplementedError

    def predict(self, sketch: Sketch) -> None:
        """Do to the outline ``sketch.model`` what ``apply`` will do to the model, as far as sizes tell it.

        What only the data will tell (which layers, which ranks) is assumed, and said in ``sketch.notes``.

        Raises:
            PassError: as ``apply``, where the settings are impossible for a model of these sizes.
        """
        sketch.notes.append("its effect is not predicted; taken to change nothing")

    def rehearsed(self, model: Salmonn) -> Pass:
        """This pass with as little work as still goes all its ways, for a rehearsal on the small ``model``.

        Numbers that only fit the real sizes are changed to such that fit ``model``; ``predict`` has checked
        the real ones.
        """
        return self
