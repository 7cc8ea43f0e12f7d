"""How a training runs: its length, its learning rate, and when it writes and validates."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from audiolm_compress.settings import Settings

Decay = Annotated[float, Field(ge=0, lt=1)]


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
    betas: tuple[Decay, Decay] = Field((0.9, 0.98), description="AdamW's decay rates.")
    weight_decay: float = Field(
        0.01, ge=0, description="AdamW's weight decay of matrices; vectors have none."
    )
    clip_norm: float | None = Field(1.0, gt=0, description="Longest gradient; null leaves it as it is.")
    accumulation: int = Field(1, ge=1, description="Batches of each process whose gradients make one step.")
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="Autocast of the matrix products."
    )
    log_every: int = Field(10, ge=1, description="Steps between two points of the loss curve.")
    log_with: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="Loggers that get the loss curve as well."
    )
    validate_every: int = Field(
        0, ge=0, description="Steps between validations; 0 validates at the end only."
    )
    save_every: int = Field(0, ge=0, description="Steps between checkpoints; 0 saves at the end only.")
    seed: int = Field(0, description="Of dropout and whatever else the loss draws.")


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
