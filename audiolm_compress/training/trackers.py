"""TensorBoard and Weights & Biases, through Accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available

from audiolm_compress.errors import DataError
from audiolm_compress.training.settings import TrainSettings


class Log(Protocol):
    """Takes values of a step."""

    def __call__(self, values: dict[str, float], step: int) -> None:
        """Hand ``values`` to every logger."""


@contextmanager
def trackers(settings: TrainSettings, folder: Path | None) -> Iterator[Log]:
    """The loggers of ``settings.log_with``, closed at the end; only the main process writes.

    Both write to ``folder``; what W&B shows is called by its name. A resumed training is a further run there.

    Raises:
        DataError: a logger's package is not installed, or there is no folder to write to.
    """
    if not settings.log_with:
        yield lambda values, step: None
        return
    installed = {"tensorboard": is_tensorboard_available(), "wandb": is_wandb_available()}
    missing = [name for name in settings.log_with if not installed[name]]
    if missing:
        raise DataError(
            f"log_with: {', '.join(missing)} not installed; pip install {' '.join(missing)}, "
            f"or leave it out of log_with"
        )
    if folder is None:
        raise DataError("log_with needs a folder to write to; give one, or leave log_with out")
    # Accelerate passes over loggers that it does not find, hence the checks above.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), log_with=list(settings.log_with), project_dir=folder
    )
    flat = {
        name: value if isinstance(value, (int, float, str)) else str(value)
        for name, value in settings.model_dump().items()
    }
    own = {"wandb": {"dir": str(folder), "name": str(folder)}}
    accelerator.init_trackers("audiolm_compress", config=flat, init_kwargs=own)
    try:
        yield lambda values, step: accelerator.log(values, step=step)
    finally:
        for tracker in accelerator.trackers:  # not end_training, which also ends the processes' group
            tracker.finish()
