"""Draws labelled mixtures of everyday sounds and speech: the training data of the tiny BEATs.

Each mixture holds one to three recordings of an annotation file and, sometimes, a speech clip. Recordings are
cut, shifted, slowed down or sped up a little, tilted in tone and set to random levels; half of the mixtures
get white or pink noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
STEP = 5_120  # samples per label step: 0.32 s, the teacher's step and two of BEATs' time patches
_FADE = 800
_AUDIBLE_DB = 20.0  # a sound this far under the mixture counts as absent in that step


@dataclass(frozen=True)
class Sound:
    """A recording (float32 samples at 16 kHz) and the number of the recording it was cut from."""

    wave: np.ndarray
    label: int


@dataclass(frozen=True)
class Mixture:
    """Samples [samples] in [-1, 1] and, for each 0.32 s, what is audible, bool [steps, labels]."""

    wave: np.ndarray
    present: np.ndarray


def read_sounds(annotation: Path) -> tuple[list[Sound], list[str]]:
    """The clips of an annotation in the SALMONN format, and the names of their recordings.

    Clips that an entry's ``group`` says were cut from one recording share a label; paths are relative to the
    file.
    """
    entries = json.loads(annotation.read_text(encoding="utf-8"))["annotation"]
    names = sorted({entry["group"] for entry in entries})
    sounds = []
    for entry in entries:
        wave, rate = soundfile.read(annotation.parent / entry["path"], dtype="float32")
        if rate != RATE or wave.ndim != 1:
            raise ValueError(f"{entry['path']}: {rate} Hz, {wave.ndim} dimensions; make it 16 kHz mono")
        sounds.append(Sound(wave, names.index(entry["group"])))
    return sounds, names


class SpeechShards:
    """Speech clips in ``*.i16`` files (raw int16, 16 kHz), each with a ``*.jsonl`` of offset and samples."""

    def __init__(self, folder: Path) -> None:
        self._clips: list[tuple[np.ndarray, int, int]] = []
        for index in sorted(folder.glob("*.jsonl")):
            samples = np.memmap(index.with_suffix(".i16"), dtype=np.int16, mode="r")
            for line in index.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._clips.append((samples, entry["offset"], entry["samples"]))
        if not self._clips:
            raise FileNotFoundError(f"{folder} holds no speech shards (*.i16 with *.jsonl)")

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One clip, float32 [samples]."""
        samples, offset, length = self._clips[rng.integers(len(self._clips))]
        return samples[offset : offset + length].astype(np.float32) / 32_768


def draw_mixture(
    sounds: Sequence[Sound],
    labels: int,
    samples: int,
    rng: np.random.Generator,
    speech: SpeechShards | None = None,
    speech_share: float = 0.3,
) -> Mixture:
    """One mixture; label ``labels - 1`` is speech, the others are the recordings'."""
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.5, 0.15]))
    chosen = [sounds[i] for i in rng.choice(len(sounds), count, replace=False)]
    if speech is not None and rng.random() < speech_share:
        chosen[-1] = Sound(speech.draw(rng), labels - 1)
    tracks = [_place(_vary(sound.wave, rng), samples, rng) for sound in chosen]
    mixture = np.sum(tracks, axis=0, dtype=np.float32)
    if rng.random() < 0.5:
        loudest = np.sqrt(_step_power(mixture).max() + 1e-12)
        mixture = mixture + loudest * 10 ** (-rng.uniform(10, 35) / 20) * _noise(samples, rng)
    total = _step_power(mixture)
    present = np.zeros((samples // STEP, labels), bool)
    for sound, track in zip(chosen, tracks, strict=True):
        power = _step_power(track)
        present[:, sound.label] |= (power > total * 10 ** (-_AUDIBLE_DB / 10)) & (power > power.max() * 1e-4)
    return Mixture(mixture / max(1.0, float(np.abs(mixture).max()) / 0.95), present)


def _vary(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another speed (+-8 %, one time in three) and a gentle tilt of the tone (one time in two)."""
    if rng.random() < 1 / 3:
        times = np.arange(0, len(wave) - 1, rng.uniform(0.92, 1.08))
        wave = np.interp(times, np.arange(len(wave)), wave).astype(np.float32)
    if rng.random() < 1 / 2:
        wave = np.append(wave[:1], wave[1:] + np.float32(rng.uniform(-0.5, 0.5)) * wave[:-1])
    return wave


def _place(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``samples`` of the recording, faded where cut, at a random level and place in silence."""
    limit = samples if rng.random() < 0.5 else int(rng.uniform(RATE, samples))
    if len(wave) > limit:
        start = int(rng.integers(len(wave) - limit + 1))
        wave = wave[start : start + limit].copy()
        ramp = np.linspace(0, 1, _FADE, dtype=np.float32)
        wave[:_FADE] *= ramp
        wave[-_FADE:] *= ramp[::-1]
    level = 10 ** (rng.uniform(-34, -14) / 20)
    power = np.convolve(np.add.reduceat(wave**2, np.arange(0, len(wave), 400)), np.ones(16))
    gain = level / np.sqrt(power.max() / min(len(wave), 6_400) + 1e-10)
    offset = int(rng.integers(samples - len(wave) + 1))
    return np.pad(wave * np.float32(gain), (offset, samples - len(wave) - offset))


def _noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(samples).astype(np.float32)
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), samples)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def _step_power(wave: np.ndarray) -> np.ndarray:
    """Mean square in each whole label step, [steps]."""
    whole = len(wave) // STEP
    return np.square(wave[: whole * STEP]).reshape(whole, STEP).mean(axis=1)
