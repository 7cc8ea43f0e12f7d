"""Training clips made of real prompts: augmented copies, joined prompts, and sequences of one-word prompts.

The voice is Allison Smith's (Debian packages `asterisk-core-sounds-en-g722` and, for the transcripts,
`asterisk-core-sounds-en`; CC-BY-SA-3.0). The prompts of one word are in no split of the corpus.
"""

from __future__ import annotations

import gzip
import random
import re
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from augment import RATE, trim

SOUNDS = "usr/share/asterisk/sounds/en_US_f_Allison"
TRANSCRIPTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
# Abbreviations whose spoken form the transcript does not tell, and words it misspells.
UNCLEAR = ("spy-", "digits/h-40", "letters/exclaimation")
MAX_SECONDS = 18.0


def one_word_prompts(root: Path) -> dict[str, list[tuple[Path, str]]]:
    """(file, word) of every prompt of one word, by folder: "digits", "letters", "phonetic", "" (the rest)."""
    groups: dict[str, list[tuple[Path, str]]] = {}
    with gzip.open(root / TRANSCRIPTS, "rt", encoding="utf-8") as lines:
        for line in lines:
            name, _, prompt = line.partition(": ")
            word = prompt.strip().rstrip(".!").lower()
            file = root / SOUNDS / f"{name}.g722"
            if re.fullmatch(r"[a-z']+", word) and not name.startswith(UNCLEAR) and file.exists():
                groups.setdefault(name.rpartition("/")[0], []).append((file, word))
    return groups


def word_sequence(
    groups: dict[str, list[tuple[Path, str]]], clips: list[tuple[Path, str]], rng: random.Random
) -> list[tuple[Path, str]]:
    """3 to 8 one-word prompts, mostly of one folder; two in five have a training prompt at one end."""
    folder = rng.choice(("digits", "digits", "letters", "phonetic", "", "any"))
    words = groups.get(folder) or [word for group in groups.values() for word in group]
    parts = [rng.choice(words) for _ in range(rng.randint(3, 8))]
    if rng.random() < 0.4:
        parts.insert(rng.choice((0, len(parts))), rng.choice(clips))
    return parts


def joined_prompts(
    clips: list[tuple[Path, str]], seconds: dict[Path, float], rng: random.Random
) -> list[tuple[Path, str]]:
    """Two or three training prompts of at most 18 s together."""
    while True:
        parts = rng.sample(clips, rng.choice((2, 2, 3)))
        if sum(seconds[file] for file, _ in parts) <= MAX_SECONDS:
            return parts


@cache
def read(file: Path) -> np.ndarray:
    """A recording at 16 kHz, float32, trimmed; `.g722` is decoded by ffmpeg."""
    if file.suffix == ".g722":
        command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(file)]
        command += [*f"-f f32le -ar {RATE} -ac 1".split(), "-"]
        wave = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)
        return trim(wave - wave.mean())
    wave, rate = soundfile.read(file, dtype="float32")
    if rate != RATE:
        raise ValueError(f"{file}: {rate} Hz, but the corpus has {RATE} Hz; rebuild it")
    return np.asarray(wave, np.float32)


def join(files: list[Path], rng: np.random.Generator) -> np.ndarray:
    """The recordings one after the other, of equal peak, 0 to 0.25 s between their edges of 0.1 s each."""
    parts: list[np.ndarray] = []
    for file in files:
        wave = read(file)
        pause = np.zeros(int(rng.uniform(0, 0.25) * RATE), np.float32)
        parts += [wave / max(float(np.abs(wave).max(initial=0.0)), 1e-6), pause]
    return np.concatenate(parts[:-1])
