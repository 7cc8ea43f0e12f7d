"""One training loop for everything that is trained: a model, a plan of batches and a loss function.

AdamW with linear warm-up and cosine decay, gradient accumulation and clipping. A script that calls `train`
runs under ``accelerate launch`` on several devices unchanged: n processes with batches of their own take the
steps that one process takes with n times the accumulation, within rounding. A run that was cut off, also by
SIGKILL and also while it was writing, continues from its checkpoint; on a CPU it ends with the weights of one
that was not, bit by bit.

Gradients are summed over processes once a step rather than by DistributedDataParallel: a loss may then call
any method of the model, use parameters or not, and weigh its batch.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import broadcast, set_seed
from rich.progress import Progress as Bars
from safetensors.torch import save
from torch import Tensor, nn

from audiolm_compress.errors import DataError
from audiolm_compress.training.checkpoint import (
    BEST,
    CURVE,
    TrainResult,
    TrainState,
    learned,
    load_state,
    save_state,
    write_whole,
)
from audiolm_compress.training.settings import TrainSettings, rate_at
from audiolm_compress.training.shards import from_main, processes, total
from audiolm_compress.training.trackers import trackers

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Mean:
    """A loss that is a mean over ``count`` things, such as tokens.

    The gradient of a step is that of the mean over all things of its batches. A loss that is a plain tensor
    has count 1: all batches weigh the same.

    Raises:
        DataError: there are no things, of which no mean exists.
    """

    loss: Tensor
    count: float

    def __post_init__(self) -> None:
        if self.count <= 0:
            raise DataError(f"a loss is a mean over {self.count} things; leave such batches out of the plan")


def train(
    model: nn.Module,
    plan: Callable[[int], Sequence[Entry]],
    loss: Callable[[nn.Module, Entry], Tensor | Mean],
    settings: TrainSettings,
    *,
    folder: Path | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    progress: Bars | None = None,
    after_step: Callable[[TrainResult, torch.optim.Optimizer], None] | None = None,
    rate: Callable[[int, TrainSettings, float], float] = rate_at,
) -> TrainResult:
    """Train the parameters of ``model`` that require gradients, in place.

    Args:
        model: trained where it is (see `shards.own_device` for where each of several processes should have
            it); all processes begin with the weights of the first. Left in evaluation mode. While training,
            modules whose parameters are all frozen stay in evaluation mode, so that frozen encoders have no
            dropout.
        plan: the batches of an epoch, in order, always the same for the same epoch. An entry is whatever
            ``loss`` makes a batch of: indices are enough. Several processes take entries in turn.
        loss: mean loss of one batch, a scalar, and what it is a mean over. Random numbers from the global
            generators of Python, NumPy and torch repeat: they are seeded before every batch from the seed and
            the number of the entry.
        settings: how long and how fast.
        folder: where checkpoint, best weights and curve go, written by the main process. If it holds a
            checkpoint, training continues there.
        validate: called in every process on the model in evaluation mode, without gradients; lower is better,
            the main process's score counts (see `shards` for sharing the work). The weights of the lowest
            score are the ones that are left in ``model`` at the end (in ``folder``/best.safetensors in
            between).
        progress: shows a bar.
        after_step: called in the main process after each step and before its checkpoint, so that a step whose
            call was cut off is taken again.
        rate: learning rate of a step (counted from 0), given the seconds taken so far.

    Raises:
        DataError: an epoch is empty, the loss or a score is no number, nothing is to be trained, a logger is
            missing, ``folder`` holds a checkpoint of another training, or there is none for ``save_every``.
    """
    if settings.save_every and folder is None:
        raise DataError(f"save_every={settings.save_every}, but there is no folder to save in; give one")
    state = processes()
    if state.num_processes > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data.copy_(broadcast(tensor.data.to(state.device)))
    parameters, frozen = learned(model), _frozen(model)
    optimizer = _optimizer(list(parameters.values()), settings)
    device = next(iter(parameters.values())).device
    scaler = torch.amp.GradScaler(device.type, enabled=settings.mixed_precision == "fp16")
    here = TrainState()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        here = load_state(folder, model, optimizer, scaler, settings)
    result = here.result
    entries = _entries(plan, here.entries + state.process_index, state.num_processes)
    bar = progress.add_task("training", total=settings.steps, completed=result.steps) if progress else None
    start = time.monotonic() - result.seconds
    with trackers(settings, folder) as log:
        while not _finished(result, settings):
            model.train()
            for module in frozen:
                module.eval()
            mean, count = _gradients(model, entries, loss, settings, scaler)
            here.entries += settings.accumulation * state.num_processes
            if not math.isfinite(mean):
                raise DataError(f"the loss at step {result.steps} is {mean}; lower the learning rate")
            now = rate(result.steps, settings, result.seconds)
            for group in optimizer.param_groups:
                group["lr"] = now
            scaler.unscale_(optimizer)
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters.values(), settings.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            result.steps += 1
            result.seconds = time.monotonic() - start
            if settings.minutes is not None:
                result.seconds = from_main(result.seconds)  # all processes must end at the same step
            done = _finished(result, settings)
            here.since_point = (here.since_point[0] + mean * count, here.since_point[1] + count)
            if done or result.steps % settings.log_every == 0:
                point = {"loss": here.since_point[0] / here.since_point[1], "rate": now}
                here.since_point = (0.0, 0.0)
                result.curve.append({"step": result.steps, **point, "seconds": result.seconds})
                log(point, result.steps)
            if validate and (done or _due(result.steps, settings.validate_every)):
                score = _validate(model, validate, settings)
                result.curve.append({"step": result.steps, "validation": score})
                log({"validation": score}, result.steps)
                if score < result.best:
                    result.best, result.best_step = score, result.steps
                    here.best = {name: p.detach().clone() for name, p in parameters.items()}
                    if folder is not None and state.is_main_process:
                        _show_best(folder, here.best)
            if state.is_main_process:
                if after_step is not None:
                    after_step(result, optimizer)
                if folder is not None and (done or _due(result.steps, settings.save_every)):
                    save_state(folder, model, optimizer, scaler, here, settings)
                    _show_curve(folder, result)
            if progress and bar is not None:
                progress.update(bar, completed=result.steps)
    with torch.no_grad():
        for name, kept in here.best.items():
            parameters[name].copy_(kept)
    model.eval()
    state.wait_for_everyone()  # the files are there when any process goes on
    return result


def _gradients(
    model: nn.Module,
    entries: Iterator[tuple[int, Entry]],
    loss: Callable[[nn.Module, Entry], Tensor | Mean],
    settings: TrainSettings,
    scaler: torch.amp.GradScaler,
) -> tuple[float, float]:
    """Leave the gradient of a step's mean loss in the parameters, the same in all processes.

    With losses l_b that are means over c_b things, it is that of sum_b c_b l_b / sum_b c_b. Counts enter
    relative to the first one, so that 16-bit gradients stay in the range that the scaler knows.

    Returns:
        That mean, and sum_b c_b.
    """
    parameters = list(learned(model).values())
    device = parameters[0].device
    dtype = torch.float16 if settings.mixed_precision == "fp16" else torch.bfloat16
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    first = None
    for _ in range(settings.accumulation):
        number, entry = next(entries)
        _seed(settings, number)
        with torch.autocast(device.type, dtype, enabled=settings.mixed_precision != "no"):
            value = loss(model, entry)
        mean = value if isinstance(value, Mean) else Mean(value, 1.0)
        first = first or mean.count
        scaler.scale(mean.loss * (mean.count / first)).backward()
        sums += torch.stack((mean.loss.detach().double() * mean.count, sums.new_tensor(mean.count)))
    assert first is not None, "a step has at least one batch"
    sums = total(sums)
    factor = first / sums[1].item()
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:  # not used by these batches, perhaps by another process's
            gradient = parameter.grad = torch.zeros_like(parameter)
        gradient.mul_(factor)
    if processes().num_processes > 1:
        flat = total(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
    return sums[0].item() / sums[1].item(), sums[1].item()


def _validate(model: nn.Module, validate: Callable[[nn.Module], float], settings: TrainSettings) -> float:
    model.eval()
    _seed(settings, 0)
    with torch.no_grad():
        score = from_main(validate(model))
    if math.isnan(score):
        raise DataError("the validation's score is no number; look at the model's outputs")
    return score


def _finished(result: TrainResult, settings: TrainSettings) -> bool:
    late = settings.minutes is not None and result.seconds >= 60 * settings.minutes
    return late or result.steps >= settings.steps


def _frozen(module: nn.Module) -> list[nn.Module]:
    """The outermost modules that have parameters, none of which requires a gradient."""
    own = [parameter.requires_grad for parameter in module.parameters()]
    if own and not any(own):
        return [module]
    return [inner for child in module.children() for inner in _frozen(child)]


def _optimizer(parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    if not parameters:
        raise DataError("nothing to train: no parameter of the model requires a gradient")
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.learning_rate, betas=settings.betas, fused=True
    )


def _entries(plan: Callable[[int], Sequence[Entry]], first: int, stride: int) -> Iterator[tuple[int, Entry]]:
    """Every ``stride``-th entry of all epochs in a row from ``first`` on, with its number."""
    epoch, begin = 0, 0
    while True:
        entries = plan(epoch)
        if not entries:
            raise DataError(f"epoch {epoch} has no batches; give more data, or smaller batches")
        for number in range(first, begin + len(entries), stride):
            yield number, entries[number - begin]
            first = number + stride
        begin += len(entries)
        epoch += 1


def _seed(settings: TrainSettings, number: int) -> None:
    set_seed((settings.seed * 1_000_003 + number) % 2**32)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _show_best(folder: Path, best: Mapping[str, Tensor]) -> None:
    """For people and other programs; a resumed training has its own in the checkpoint."""
    content = save({name: tensor.cpu().contiguous() for name, tensor in best.items()})
    write_whole(folder / BEST, lambda file: file.write(content))


def _show_curve(folder: Path, result: TrainResult) -> None:
    content = json.dumps(result.curve, indent=0) + "\n"
    write_whole(folder / CURVE, lambda file: file.write(content.encode()))
