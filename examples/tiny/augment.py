"""Changes a waveform the way rooms, lines and speakers do: speed, tone, level, noise. Mono, 16 kHz."""

from __future__ import annotations

import numpy as np
import soxr

RATE = 16000
EDGE = RATE // 10  # silence kept at both ends, as in the corpus


def at_speed(wave: np.ndarray, rate: float, speed: float = 1.0) -> np.ndarray:
    """`wave` (at `rate` Hz) at 16 kHz and `speed` times as fast; pitch and formants rise with the speed."""
    return np.asarray(soxr.resample(wave, rate * speed, RATE), np.float32)


def trim(wave: np.ndarray) -> np.ndarray:
    """Cuts both ends where the level stays 45 dB under the loudest 10 ms; keeps or adds 0.1 s of edge."""
    frames = wave[: len(wave) // 160 * 160].reshape(-1, 160)
    power = (frames**2).mean(1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10**-4.5)
    if not len(loud):
        return np.zeros(0, np.float32)
    start, stop = loud[0] * 160, (loud[-1] + 1) * 160
    padded = np.pad(wave, EDGE)
    return padded[start : stop + 2 * EDGE]


def tone(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tilt of up to 4 dB per octave around 1 kHz and soft band edges between a telephone's and 7 kHz."""
    spectrum = np.fft.rfft(wave)
    hertz = np.maximum(np.fft.rfftfreq(len(wave), 1 / RATE), 20.0)
    decibel = np.clip(rng.uniform(-4, 4) * np.log2(hertz / 1000), -12, 12)
    low, high = rng.uniform(60, 300), rng.uniform(3400, 7000)
    band = 1 / np.sqrt((1 + (low / hertz) ** 4) * (1 + (hertz / high) ** 12))
    return np.fft.irfft(spectrum * band * 10 ** (decibel / 20), len(wave)).astype(np.float32)


def noisy(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds white to pink noise at 15 to 40 dB under the speech."""
    spectrum = np.fft.rfft(rng.standard_normal(len(wave)))
    hertz = np.maximum(np.fft.rfftfreq(len(wave), 1 / RATE), 50.0)
    noise = np.fft.irfft(spectrum * hertz ** -rng.uniform(0, 0.5), len(wave))
    ratio = np.sqrt((wave**2).mean() / (noise**2).mean()) * 10 ** (-rng.uniform(15, 40) / 20)
    return np.asarray(wave + ratio * noise, np.float32)


def finish(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Trims, at times changes tone or adds noise, sets a random peak (0.22 to 0.89): int16 `[samples]`."""
    wave = trim(wave)
    if rng.random() < 0.4:
        wave = tone(wave, rng)
    if rng.random() < 1 / 3:
        wave = noisy(wave, rng)
    peak = 0.89 * 10 ** (-rng.uniform(0, 12) / 20)
    return np.round(wave * (peak * 32767 / max(float(np.abs(wave).max(initial=0.0)), 1e-6))).astype(np.int16)
