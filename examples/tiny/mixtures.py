"""Mixtures of everyday sounds with captions that fit what was mixed.

    python examples/tiny/mixtures.py --corpus CORPUS_DIR --out DIR --count 5000 --seed 11     # training
    shards python examples/tiny/mixtures.py --corpus CORPUS_DIR --out DIR --count 60 --seed 60 --name mix_test
    --free ... --files AUDIO_DIR --json FILE.json      # also writes FLAC files and an annotation that lists
    them

A mixture is one recording, two at the same time or one after the other, each at a random level, half of them
with noise. The recording that starts first is named first. ``--free`` draws only recordings that may be
passed on with few conditions (CC0, CC-BY, CC-BY-SA, Free Art) and never puts share-alike licences of two
kinds into one mixture. ``--unlike FILE.json`` draws again where the same recordings were put together in the
same way for a mixture of that annotation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.progress import track
from shards import RATE, ShardWriter

LONGEST = 10.0  # seconds of a mixture
LONGEST_PART = 6.0
SHARD = 500
_KEEPS_CAPITAL = {"African", "Irish", "Italian", "Japanese", "Mexican", "Middle"}


@dataclass(frozen=True)
class Sound:
    """A recording: float32 samples at 16 kHz, what is heard, and on which terms it may be passed on."""

    path: str
    wave: np.ndarray
    texts: tuple[str, ...]
    noun_phrase: str
    group: str
    licence: str
    attribution: str


@dataclass(frozen=True)
class Mixture:
    """Samples (float32, at most 10 s), captions of which the first is the one to learn, and what went in."""

    wave: np.ndarray
    texts: tuple[str, ...]
    kind: str
    sounds: tuple[Sound, ...]


def is_free(licence: str) -> bool:
    """Whether a recording may be passed on in a bundle: all but the GPL."""
    return "GPL" not in licence


def share_alike(licence: str) -> set[str]:
    """The share-alike terms in a licence name; two different ones exclude each other in one work."""
    return {name for name in ("CC-BY-SA", "Free Art", "GPL") if name in licence}


def read_sounds(annotation: Path, *, free: bool = False) -> list[Sound]:
    """The recordings of an annotation; paths are relative to its folder."""
    sounds = []
    for entry in json.loads(annotation.read_text(encoding="utf-8"))["annotation"]:
        if free and not is_free(entry["licence"]):
            continue
        wave, rate = soundfile.read(annotation.parent / entry["path"], dtype="float32")
        if rate != RATE or wave.ndim != 1:
            raise SystemExit(f"{entry['path']}: expected {RATE} Hz mono, found {rate} Hz, {wave.ndim} axes")
        fields = [entry[name] for name in ("noun_phrase", "group", "licence", "attribution")]
        sounds.append(Sound(entry["path"], wave, tuple(entry["texts"]), *fields))
    return sounds


def lower_first(text: str) -> str:
    """The sentence as a second clause."""
    return text if text.split()[0] in _KEEPS_CAPITAL else text[0].lower() + text[1:]


def at_level(wave: np.ndarray, decibels: float) -> np.ndarray:
    """Scaled so that the loudest 0.4 s have this RMS (dB re full scale)."""
    squares = np.concatenate(([0.0], np.cumsum(wave.astype(np.float64) ** 2)))
    window = min(len(wave), RATE * 2 // 5)
    loudest = (squares[window:] - squares[:-window]).max() / window
    return (wave * (10 ** (decibels / 20) / np.sqrt(loudest + 1e-10))).astype(np.float32)


def part_of(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most ``LONGEST_PART`` seconds from a random place, faded in and out where it was cut."""
    samples = int(LONGEST_PART * RATE)
    if len(wave) <= samples:
        return wave
    start = int(rng.integers(len(wave) - samples + 1))
    part, fade = wave[start : start + samples].copy(), np.linspace(0, 1, 800, dtype=np.float32)
    part[:800] *= fade
    part[-800:] *= fade[::-1]
    return part


def add_noise(wave: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """White or pink noise at an RMS level."""
    noise = rng.standard_normal(len(wave))
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(wave))
    noise *= 10 ** (decibels / 20) / np.sqrt(np.mean(noise**2))
    return wave + noise.astype(np.float32)


def sequence_captions(first: Sound, second: Sound) -> list[str]:
    """Captions of one sound after another; the first joins the first captions of both."""
    pairs = [(a, b) for a in first.texts for b in second.texts]
    pairs = [(first.texts[0], second.texts[0]), *pairs[1:]]
    follow = [f"{a} followed by {second.noun_phrase}" for a in first.texts]
    return [follow[0], *(f"{a} and then {lower_first(b)}" for a, b in pairs[:3]), *follow[1:]]


def overlap_captions(first: Sound, second: Sound) -> list[str]:
    """Captions of two sounds at once, in both orders; the first caption follows the order in time."""
    a, b = first.texts, second.texts
    return [
        f"{a[0]} while {lower_first(b[0])}",
        f"{b[0]} while {lower_first(a[0])}",
        *(f"{x} while {lower_first(y)}" for x, y in list(zip(a, b, strict=False))[1:]),
        f"{a[0]} with {second.noun_phrase} in the background",
    ]


def draw(sounds: Sequence[Sound], rng: np.random.Generator) -> Mixture:
    """One mixture."""
    kind = str(rng.choice(["single", "overlap", "sequence"], p=[0.25, 0.4, 0.35]))
    first = sounds[rng.integers(len(sounds))]
    level = float(rng.uniform(-28, -16))
    wave = at_level(part_of(first.wave, rng), level)
    used, texts = (first,), list(first.texts)
    if kind != "single":
        second = _partner(first, sounds, rng)
        other = at_level(part_of(second.wave, rng), level + float(rng.uniform(-6, 6)))
        if kind == "sequence":
            start, texts = len(wave) + int(rng.uniform(0.1, 0.8) * RATE), sequence_captions(first, second)
        else:
            start, texts = 0, []
            offset = int(rng.integers(abs(len(wave) - len(other)) + 1))
            if len(wave) < len(other):
                first, second, wave, other = second, first, other, wave
            start, texts = offset, overlap_captions(first, second)
        used = (first, second)
        total = np.zeros(max(len(wave), start + len(other)), np.float32)
        total[: len(wave)] += wave
        total[start : start + len(other)] += other
        wave = total
    wave = wave[: int(LONGEST * RATE)]
    if rng.random() < 0.5:
        wave = add_noise(wave, level - float(rng.uniform(15, 35)), rng)
    peak = float(np.abs(wave).max())
    return Mixture(wave * np.float32(min(1.0, 0.95 / peak)), tuple(texts), kind, used)


def _partner(first: Sound, sounds: Sequence[Sound], rng: np.random.Generator) -> Sound:
    """Another recording that may be mixed with ``first``."""
    while True:
        second = sounds[rng.integers(len(sounds))]
        terms = share_alike(first.licence) | share_alike(second.licence)
        # Mixtures with GPL recordings are for training only and passed on by nobody.
        if second.group != first.group and (len(terms) < 2 or "GPL" in terms):
            return second


def describe(mixture: Mixture, path: str) -> dict[str, Any]:
    """The annotation entry of a mixture."""
    used = mixture.sounds
    return {
        "path": path,
        "text": mixture.texts[0],
        "texts": list(mixture.texts),
        "task": "audiocaption_v2",
        "source": "mixture of " + " and ".join(sound.path for sound in used),
        "licence": " + ".join(sorted({sound.licence for sound in used})),
        "attribution": "; ".join(dict.fromkeys(sound.attribution for sound in used)),
        "duration": round(len(mixture.wave) / RATE, 2),
        "kind": mixture.kind,
    }


def made_of(entry: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    """How the recordings of an annotation entry were put together, and which they are."""
    return entry["kind"], frozenset(entry["source"].removeprefix("mixture of ").split(" and "))


def main() -> None:
    """Write shards of mixtures and, if asked, files with an annotation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with aac_train.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--name", default="mix")
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--files", type=Path, help="folder for FLAC files")
    parser.add_argument("--json", type=Path, help="annotation of these files")
    parser.add_argument("--unlike", type=Path, help="annotation of mixtures that are not to be repeated")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    sounds = read_sounds(args.corpus / "aac_train.json", free=args.free)
    entries, repeated = [], 0
    known = set()
    if args.unlike is not None:
        known = {made_of(e) for e in json.loads(args.unlike.read_text(encoding="utf-8"))["annotation"]}
    for shard, start in enumerate(track(range(0, args.count, SHARD), description="mixtures")):
        name = args.name if args.count <= SHARD else f"{args.name}_{shard:04d}"
        writer = ShardWriter(args.out, name)
        for index in range(start, min(start + SHARD, args.count)):
            mixture = draw(sounds, rng)
            while made_of(describe(mixture, "")) in known:
                mixture, repeated = draw(sounds, rng), repeated + 1
            source = "+".join(sound.path for sound in mixture.sounds)
            writer.add(mixture.wave, mixture.texts[0], source, task="audiocaption_v2", texts=mixture.texts)
            if args.files is not None:
                args.files.mkdir(parents=True, exist_ok=True)
                file = args.files / f"{args.name}{index:04d}.flac"
                soundfile.write(file, mixture.wave, RATE, subtype="PCM_16")
                entries.append(describe(mixture, file.name))
        writer.close()
    if args.unlike is not None:
        print(f"{repeated} mixtures like one of {args.unlike} were left out and others drawn for them")
    if args.json is not None:
        args.json.write_text(
            json.dumps({"annotation": entries}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
