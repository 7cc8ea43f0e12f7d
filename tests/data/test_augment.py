"""Variants of clips: audio of the same words, within what the settings allow, and repeatable."""

from __future__ import annotations

import math

import pytest
import torch

from audiolm_compress.data.augment import Augmentation, vary, with_variants
from audiolm_compress.data.example import SAMPLE_RATE, Example

TONE = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(SAMPLE_RATE) / SAMPLE_RATE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pitch(waveform: torch.Tensor) -> float:
    """Frequency of the loudest bin, Hz."""
    spectrum = torch.fft.rfft(waveform, n=4 * SAMPLE_RATE).abs()
    return spectrum.argmax().item() / 4


def test_speed_moves_length_and_pitch_together() -> None:
    settings = Augmentation(copies=1, speed=0.1, gain_db=0.0, noise_db=(60.0, 60.0))
    variants = [vary(TONE, settings, generator(seed)) for seed in range(8)]
    factors = [pitch(variant) / 440 for variant in variants]
    assert min(factors) < 0.97
    assert max(factors) > 1.03
    for variant, factor in zip(variants, factors, strict=True):
        assert 0.89 < factor < 1.11
        assert len(variant) * factor == pytest.approx(SAMPLE_RATE, rel=0.01)


def test_nothing_is_slowed_beyond_what_whisper_hears() -> None:
    settings = Augmentation(copies=1, speed=0.4)
    long, longer = TONE.repeat(29), TONE.repeat(31)
    lengths = [len(vary(long, settings, generator(seed))) / SAMPLE_RATE for seed in range(8)]
    assert min(lengths) < 28
    assert max(lengths) == pytest.approx(30, abs=1e-3)
    assert max(len(vary(longer, settings, generator(seed))) for seed in range(8)) == len(longer)


def test_noise_and_gain_are_what_was_asked_for() -> None:
    settings = Augmentation(copies=1, speed=0.0, gain_db=0.0, noise_db=(20.0, 20.0))
    noise = vary(TONE, settings, generator()) - TONE
    assert 20 * math.log10(TONE.std() / noise.std()) == pytest.approx(20, abs=0.5)
    settings = Augmentation(copies=1, speed=0.0, gain_db=6.0, noise_db=(90.0, 90.0))
    gains = [
        20 * math.log10(vary(0.1 * TONE, settings, generator(seed)).std() / (0.1 * TONE.std()))
        for seed in range(8)
    ]
    assert all(abs(gain) <= 6.1 for gain in gains)
    assert max(gains) - min(gains) > 3


def test_never_louder_than_full_scale() -> None:
    settings = Augmentation(copies=1, gain_db=20.0)
    assert all(vary(1.9 * TONE, settings, generator(seed)).abs().max() <= 1 for seed in range(8))


def test_originals_first_then_variants_that_repeat() -> None:
    examples = [Example(name, TONE, "asr", "a tone", ("a tone",)) for name in ("a", "b")]
    settings = Augmentation(copies=2)
    found = with_variants(examples, settings, generator(3))
    assert [example.id for example in found] == ["a", "b", "a#1", "b#1", "a#2", "b#2"]
    assert found[0] is examples[0]
    assert all(example.text == "a tone" for example in found)
    again = with_variants(examples, settings, generator(3))
    pairs = zip(found, again, strict=True)
    assert all(torch.equal(one.waveform, other.waveform) for one, other in pairs)
    assert not torch.equal(found[2].waveform[:8000], found[3].waveform[:8000])
    assert with_variants(examples, Augmentation(), generator()) == examples
