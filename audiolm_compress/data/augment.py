"""Variants of clips that keep their words: another speed, level and background.

A few hundred recordings are little for training. What is changed here leaves the reference text right, and a
teacher hears the variant itself, so its states and logits are right too. Changing the speed by resampling
moves pitch and tempo together (Ko et al., "Audio Augmentation for Speech Recognition", Interspeech 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import soxr
import torch
from pydantic import Field, model_validator
from torch import Tensor

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.settings import Settings, refuse_idle

_LONGEST = 30 * SAMPLE_RATE  # Whisper hears no more; the words behind it would still be in the text


class Augmentation(Settings):
    """How variants differ from their originals; each value is drawn evenly from its range."""

    copies: int = Field(0, ge=0, description="Variants of each clip, beside the clip itself.")
    speed: float = Field(0.1, ge=0, lt=0.5, description="Faster or slower by at most this share.")
    gain_db: float = Field(6.0, ge=0, description="Louder or softer by at most this, in dB.")
    noise_db: tuple[float, float] = Field(
        (15.0, 45.0), description="White noise so many dB below the clip, from and to."
    )

    @model_validator(mode="after")
    def _copies_vary(self) -> Augmentation:
        if not self.copies:
            names = ("speed", "gain_db", "noise_db")
            refuse_idle(self, *names, beside="copies=0", instead="give copies of 1 or more")
        return self


def with_variants(
    examples: Sequence[Example], settings: Augmentation, generator: torch.Generator
) -> list[Example]:
    """The clips and, behind them, ``settings.copies`` variants of each; their ids get ``#1``, ``#2``, ...

    Args:
        examples: clips with their texts.
        settings: how far variants may go.
        generator: of what is drawn; the same state gives the same variants.
    """
    varied = [
        replace(example, id=f"{example.id}#{copy}", waveform=vary(example.waveform, settings, generator))
        for copy in range(1, settings.copies + 1)
        for example in examples
    ]
    return [*examples, *varied]


def vary(waveform: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """One variant of float32 samples [n] at 16 kHz, again in [-1, 1]; of another length if the speed changes.

    No clip is slowed down beyond 30 s.

    Args:
        waveform: the original, left as it is.
        settings: the ranges to draw from.
        generator: of what is drawn.
    """
    speed, gain, noise = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    longest = max(len(waveform), _LONGEST)
    factor = max(1 + settings.speed * (2 * speed - 1), len(waveform) / longest)
    resampled = soxr.resample(waveform.numpy(), SAMPLE_RATE, SAMPLE_RATE / factor)
    varied = torch.from_numpy(resampled) * 10 ** (settings.gain_db * (2 * gain - 1) / 20)
    low, high = settings.noise_db
    level = varied.square().mean().sqrt() * 10 ** (-(low + (high - low) * noise) / 20)
    varied = varied + level * torch.randn(len(varied), generator=generator)
    return varied / varied.abs().max().clamp_min(1.0)
