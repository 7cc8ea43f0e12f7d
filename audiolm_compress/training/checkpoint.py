"""The state of a training on disk: all that the next step depends on, in one file replaced as a whole.

Besides the weights that are learned, the optimizer and the place in the data, the file holds the best weights
so far. Were these a file of their own, a process killed between the two writes would leave a pair that no
uninterrupted run ever had. Random numbers need no state: every batch seeds them from its number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from audiolm_compress.errors import DataError
from audiolm_compress.salmonn.torch_file import check_records
from audiolm_compress.training.settings import TrainSettings

CHECKPOINT, BEST, CURVE = "checkpoint.pt", "best.safetensors", "curve.json"
# What may change between the parts of a training: how long it is, what it tells, and how a step's batches are
# shared out, so that one process can go on, with more accumulation, where several were.
FREE = {"steps", "minutes", "accumulation", "log_every", "log_with", "validate_every", "save_every"}


@dataclass
class TrainResult:
    """What came of a training.

    Attributes:
        steps: steps taken, those before a resumption included.
        curve: points with ``step``, ``loss`` (mean since the last point), ``rate`` and ``seconds``, or with
            ``step`` and ``validation``.
        best: lowest validation score; infinite without validation.
        best_step: where it was reached.
        seconds: time taken, that before a resumption included.
    """

    steps: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    best: float = float("inf")
    best_step: int = 0
    seconds: float = 0.0


def show_losses(result: TrainResult, figure: Callable[[str, float], None]) -> None:
    """Give ``figure`` the losses that the last step has added to the curve."""
    for point in result.curve[-2:]:
        if point["step"] == result.steps:
            for name, shown in (("loss", "training loss"), ("validation", "held-out loss")):
                if name in point:
                    figure(shown, point[name])


@dataclass
class TrainState:
    """Where a training stands.

    Attributes:
        result: what the caller gets.
        entries: entries of the plan that are used up, by all processes.
        since_point: sum of losses times weights and sum of weights since the last point of the curve.
        best: weights of the best validation, by name; empty before the first.
    """

    result: TrainResult = field(default_factory=TrainResult)
    entries: int = 0
    since_point: tuple[float, float] = (0.0, 0.0)
    best: dict[str, Tensor] = field(default_factory=dict)


def learned(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require gradients, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    here: TrainState,
    settings: TrainSettings,
) -> None:
    """Write the checkpoint: at any moment the file is a complete one, the former or the new."""
    state = {
        "model": {name: parameter.detach() for name, parameter in learned(model).items()},
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "progress": {**vars(here), "result": asdict(here.result)},
        "settings": settings.model_dump(mode="json"),
    }
    write_whole(folder / CHECKPOINT, lambda file: torch.save(state, file))


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    settings: TrainSettings,
) -> TrainState:
    """Read the checkpoint into model, optimizer and scaler; a fresh start if there is none.

    Raises:
        DataError: the file is unreadable, holds other parameters or shapes, or comes from other settings.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return TrainState()
    parameters = learned(model)
    device = next(iter(parameters.values())).device
    try:
        check_records(path)
        state = torch.load(path, map_location=device, weights_only=True)
        saved, progress = state["model"], state["progress"]
        here = TrainState(TrainResult(**progress.pop("result")), **progress)
    except Exception as error:  # what a damaged pickle raises depends on where it is damaged
        raise DataError(f"{path} cannot be read: {error}; remove it to begin anew") from error
    if parameters.keys() != saved.keys():
        different = sorted(parameters.keys() ^ saved.keys())
        raise DataError(
            f"{folder} holds a checkpoint of other parameters "
            f"(only in one of the two: {', '.join(different[:5])}); choose another folder"
        )
    shapes = [
        f"{name} {list(saved[name].shape)} (now {list(parameter.shape)})"
        for name, parameter in parameters.items()
        if saved[name].shape != parameter.shape
    ]
    if shapes:
        raise DataError(
            f"{folder} holds a checkpoint of parameters of other shapes: "
            f"{', '.join(shapes[:5])}; choose another folder"
        )
    _require_same(state["settings"], settings, folder)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    try:
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path} holds another optimizer's state ({error}); choose another folder") from error
    return here


def _require_same(saved: Mapping[str, Any], settings: TrainSettings, folder: Path) -> None:
    now = settings.model_dump(mode="json")
    changed = [name for name in now if name not in FREE and saved.get(name) != now[name]]
    if changed:
        raise DataError(
            f"{folder} holds a checkpoint of a training with "
            + ", ".join(f"{name} {saved.get(name)} (now {now[name]})" for name in changed)
            + "; take these values again, or another folder"
        )


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that takes the place of ``path`` when it is complete and on the disk."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
