"""One training loop for everything that is trained: a model, a plan of batches and a loss function.

AdamW with linear warm-up and cosine decay, gradient accumulation and clipping, on Accelerate, so that a
script which calls `train` runs under ``accelerate launch`` on several devices unchanged. What is learned
(parameters that require gradients), the optimizer and the place in the data are saved together; a run that
was cut off continues and ends with the weights of one that was not.

Example:
    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> settings = TrainSettings(steps=4, learning_rate=0.1)
    >>> result = train(model, lambda epoch: [0, 1], lambda model, i: model(data[i]).square().mean(), settings)
    >>> result.steps
    4
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from pydantic import Field
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audiolm_compress.errors import DataError
from audiolm_compress.settings import Settings

CHECKPOINT, BEST, CURVE = "checkpoint.pt", "best.safetensors", "curve.json"
Entry = TypeVar("Entry")


class TrainSettings(Settings):
    """How to train; a step is one change of the weights."""

    steps: int = Field(ge=1, description="Changes of the weights, in all.")
    minutes: float | None = Field(
        None,
        gt=0,
        description="End after so many minutes, whatever `steps` says; the learning rate then follows the "
        "larger share done of both. Such a run does not repeat exactly.",
    )
    learning_rate: float = Field(gt=0, description="Highest learning rate, reached after the warm-up.")
    warmup: int = Field(0, ge=0, description="Steps of linear warm-up.")
    final_rate: float = Field(
        0.0, ge=0, le=1, description="Learning rate at the end, as a share of the highest."
    )
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's decay rates.")
    weight_decay: float = Field(
        0.01, ge=0, description="AdamW's weight decay of matrices; vectors have none."
    )
    clip_norm: float = Field(1.0, gt=0, description="Longest gradient.")
    accumulation: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="Autocast of the matrix products."
    )
    log_every: int = Field(10, ge=1, description="Steps between two points of the loss curve.")
    validate_every: int = Field(
        0, ge=0, description="Steps between validations; 0 validates at the end only."
    )
    save_every: int = Field(0, ge=0, description="Steps between checkpoints; 0 saves at the end only.")
    seed: int = Field(0, description="Of dropout and whatever else the loss draws.")


@dataclass
class TrainResult:
    """What came of it.

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
    best: float = math.inf
    best_step: int = 0
    seconds: float = 0.0


def train(
    model: nn.Module,
    plan: Callable[[int], Sequence[Entry]],
    loss: Callable[[nn.Module, Entry], Tensor],
    settings: TrainSettings,
    *,
    folder: Path | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    progress: Progress | None = None,
    accelerator: Accelerator | None = None,
) -> TrainResult:
    """Train the parameters of ``model`` that require gradients, in place.

    Args:
        model: moved to the accelerator's device; left in evaluation mode.
        plan: the batches of an epoch, in order, always the same for the same epoch. An entry is whatever
            ``loss`` makes a batch of: indices are enough. Several processes share an epoch's entries.
        loss: mean loss of one batch, a scalar. Random numbers from torch's global generator repeat: it is
            seeded before every batch from the seed and the step.
        settings: how long and how fast.
        folder: where checkpoint, best weights and curve go. If it holds a checkpoint, training
            continues there.
        validate: called on the model in evaluation mode; lower is better. The weights of the lowest score
            are the ones that are left in ``model`` at the end (in ``folder``/best.safetensors in between).
        progress: shows a bar.
        accelerator: to share one with the caller; by default a new one.

    Raises:
        DataError: the first epoch is empty, or the loss is not finite.
    """
    accelerator = accelerator or Accelerator(mixed_precision=settings.mixed_precision)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(learned, settings)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    result = TrainResult()
    best = _Best(model)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        result = _resume(folder, model, optimizer, best, accelerator.device)
    entries = _entries(plan, result.steps * settings.accumulation, accelerator)
    bar = progress.add_task("training", total=settings.steps, completed=result.steps) if progress else None
    losses: list[float] = []
    start = time.monotonic() - result.seconds
    while not _finished(result, settings):
        model.train()
        for part in range(settings.accumulation):
            torch.manual_seed(_seed(settings, result.steps * settings.accumulation + part, accelerator))
            # Gradients of all but the last batch stay on their process.
            last = part == settings.accumulation - 1
            with _Nothing() if last else accelerator.no_sync(wrapped), accelerator.autocast():
                value = loss(wrapped, next(entries))
            if not torch.isfinite(value):
                raise DataError(f"the loss at step {result.steps} is {value.item()}; lower the learning rate")
            accelerator.backward(value / settings.accumulation)
            losses.append(value.item())
        accelerator.clip_grad_norm_(learned, settings.clip_norm)
        rate = rate_at(result.steps, settings, result.seconds)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        result.steps += 1
        result.seconds = time.monotonic() - start
        done = _finished(result, settings)
        if done or result.steps % settings.log_every == 0:
            point = {"loss": sum(losses) / len(losses), "rate": rate, "seconds": result.seconds}
            result.curve.append({"step": result.steps, **point})
            losses.clear()
        if validate and (done or _due(result.steps, settings.validate_every)):
            model.eval()
            score = validate(model)
            result.curve.append({"step": result.steps, "validation": score})
            if score < result.best:
                result.best, result.best_step = score, result.steps
                best.take(folder if accelerator.is_main_process else None)
        if (
            folder is not None
            and accelerator.is_main_process
            and (done or _due(result.steps, settings.save_every))
        ):
            _save(folder, model, optimizer, result)
        if progress and bar is not None:
            progress.update(bar, completed=result.steps)
    best.restore()
    model.eval()
    return result


def rate_at(step: int, settings: TrainSettings, seconds: float = 0.0) -> float:
    """Learning rate of a step: linear warm-up times half a cosine down to ``final_rate``.

    Args:
        step: counted from 0.
        settings: the cosine begins after ``warmup`` steps, and at once where ``minutes`` says when to end.
        seconds: time taken so far; matters only if ``minutes`` is set.
    """
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    if settings.minutes is not None:
        done = max(done, seconds / (60 * settings.minutes))
    cosine = (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2
    return settings.learning_rate * warm * (settings.final_rate + (1 - settings.final_rate) * cosine)


def _finished(result: TrainResult, settings: TrainSettings) -> bool:
    late = settings.minutes is not None and result.seconds >= 60 * settings.minutes
    return late or result.steps >= settings.steps


def _optimizer(learned: list[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    if not learned:
        raise DataError("nothing to train: no parameter of the model requires a gradient")
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.learning_rate, betas=settings.betas, fused=True
    )


def _entries(plan: Callable[[int], Sequence[Entry]], skip: int, accelerator: Accelerator) -> Iterator[Entry]:
    """Entries of all epochs for this process, without the first ``skip``."""
    epoch = 0
    while True:
        share = plan(epoch)[accelerator.process_index :: accelerator.num_processes]
        if not share:
            raise DataError(f"epoch {epoch} has too few batches for {accelerator.num_processes} process(es)")
        yield from share[skip:]
        skip = max(0, skip - len(share))
        epoch += 1


def _seed(settings: TrainSettings, batch: int, accelerator: Accelerator) -> int:
    return (settings.seed * 1_000_003 + batch) * accelerator.num_processes + accelerator.process_index


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


class _Best:
    """The learned weights of the best validation."""

    def __init__(self, model: nn.Module) -> None:
        self._learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._kept: dict[str, Tensor] = {}

    def take(self, folder: Path | None) -> None:
        self._kept = {name: p.detach().clone() for name, p in self._learned.items()}
        if folder is not None:
            save_file({name: p.cpu().contiguous() for name, p in self._kept.items()}, folder / f"{BEST}.new")
            (folder / f"{BEST}.new").replace(folder / BEST)

    def load(self, folder: Path) -> None:
        if (folder / BEST).exists():
            self._kept = load_file(folder / BEST)

    def restore(self) -> None:
        with torch.no_grad():
            for name, kept in self._kept.items():
                self._learned[name].copy_(kept)


def _save(folder: Path, model: nn.Module, optimizer: Any, result: TrainResult) -> None:
    learned = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
    state = {"model": learned, "optimizer": optimizer.state_dict(), "result": vars(result)}
    torch.save(state, folder / f"{CHECKPOINT}.new")
    (folder / f"{CHECKPOINT}.new").replace(folder / CHECKPOINT)
    (folder / CURVE).write_text(json.dumps(result.curve, indent=0) + "\n", encoding="utf-8")


def _resume(folder: Path, model: nn.Module, optimizer: Any, best: _Best, device: torch.device) -> TrainResult:
    if not (folder / CHECKPOINT).exists():
        return TrainResult()
    state = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if learned.keys() != state["model"].keys():
        different = sorted(learned.keys() ^ state["model"].keys())
        raise DataError(
            f"{folder} holds a checkpoint of other parameters "
            f"(only in one of the two: {', '.join(different[:5])}); "
            f"choose another folder"
        )
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    best.load(folder)
    return TrainResult(**state["result"])
