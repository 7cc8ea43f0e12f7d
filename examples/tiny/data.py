"""Batches of cached encoder states with the texts to learn."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from shards import Clip, read_clips
from tokenizers import Tokenizer
from torch import Tensor

FRAME = 320  # samples in a frame of either encoder
WINDOW = 8  # frames in an audio token


@dataclass(frozen=True)
class Stream:
    """Cached states of one encoder for one shard, [all frames, width], and which are whose."""

    states: np.ndarray
    start: list[int]
    frames: list[int]

    @classmethod
    def open(cls, cache: Path, name: str, encoder: str) -> Stream:
        """Memory-map ``NAME.ENCODER.f16``."""
        index = json.loads((cache / f"{name}.{encoder}.json").read_text(encoding="utf-8"))
        states = np.memmap(cache / f"{name}.{encoder}.f16", np.float16, mode="r").reshape(-1, index["width"])
        return cls(states, index["start"], index["frames"])

    def __getitem__(self, clip: int) -> np.ndarray:
        start = self.start[clip]
        return self.states[start : start + self.frames[clip]]


@dataclass(frozen=True)
class Item:
    """One clip: its texts and where its states are."""

    clip: Clip
    index: int
    speech: Stream
    audio: Stream | None

    @property
    def kind(self) -> str:
        """``asr`` or ``aac``."""
        return "asr" if self.clip.task == "asr" else "aac"

    @property
    def tokens(self) -> int:
        """Audio tokens of the clip itself, without padding."""
        return min(math.ceil(self.clip.samples / FRAME / WINDOW), self.speech.frames[self.index] // WINDOW)


class Targets:
    """What the CTC loss wants of a clip: sub-word units of speech, or the recordings that are heard.

    Behind the units of text come one unit for each recording of the training split and one that stands
    between two recordings that follow each other.
    """

    def __init__(self, units: Tokenizer, recordings: Sequence[str]) -> None:
        self.units = units
        self.first = units.get_vocab_size()
        self.number = {name: self.first + i for i, name in enumerate(sorted(recordings))}
        self.then = self.first + len(self.number)
        self.count = self.then + 1

    def __call__(self, clip: Clip) -> list[int]:
        """Target units; none for sounds that are not known to come from the training recordings."""
        if clip.task == "asr":
            return self.units.encode(clip.text).ids
        sounds = [self.number[name] for name in clip.source.split("+") if name in self.number]
        if len(sounds) == 2 and " followed by " in clip.texts[0]:
            return [sounds[0], self.then, sounds[1]]
        return sounds

    def text(self, path: Sequence[int]) -> str:
        """The text of a CTC path: repeats and blanks removed."""
        ids = [
            unit for i, unit in enumerate(path) if 0 < unit < self.first and (i == 0 or unit != path[i - 1])
        ]
        return self.units.decode(ids)


def read_items(
    clips: Path, cache: Path, names: Sequence[str], encoders: Sequence[str] = ("whisper", "beats")
) -> list[Item]:
    """Items of shards; without "beats" among the encoders, its states are zeros."""
    items = []
    for name in names:
        speech = Stream.open(cache, name, "whisper")
        audio = Stream.open(cache, name, "beats") if "beats" in encoders else None
        items += [Item(clip, i, speech, audio) for i, clip in enumerate(read_clips(clips, name))]
    return items


def plan_epoch(
    items: Sequence[Item], epoch: int, *, seed: int, tokens: int, repeat: dict[str, int] | None = None
) -> list[list[int]]:
    """Batches of clips of similar length, in random order, each of at most ``tokens`` padded audio tokens.

    ``repeat`` gives sources (prefixes of `Clip.source`) that occur more than once in an epoch.
    """
    rng = random.Random(f"{seed} {epoch}")
    order = []
    for i, item in enumerate(items):
        times = next((n for prefix, n in (repeat or {}).items() if item.clip.source.startswith(prefix)), 1)
        order += [i] * times
    rng.shuffle(order)
    batches = []
    # Sorted within pools, so that neighbours in a batch differ from epoch to epoch.
    for begin in range(0, len(order), 4000):
        pool = sorted(order[begin : begin + 4000], key=lambda i: items[i].tokens)
        batch: list[int] = []
        for i in pool:
            if batch and (items[i].tokens + 16) * (len(batch) + 1) > tokens:
                batches.append(batch)
                batch = []
            batch.append(i)
        batches.append(batch)
    rng.shuffle(batches)
    return batches


@dataclass(frozen=True)
class States:
    """Padded states of a batch.

    Attributes:
        speech, audio: float32 [batch, frames, width].
        audio_mask: float32 [batch, frames, 1], 0 where a clip has no BEATs states.
        tokens: int64 [batch], audio tokens to read of each clip.
        own: int64 [batch], those of them that are not padding.
    """

    speech: Tensor
    audio: Tensor
    audio_mask: Tensor
    tokens: Tensor
    own: Tensor


def collate(items: Sequence[Item], *, extra: Sequence[int], audio_width: int) -> States:
    """Stack states; ``extra`` audio tokens of padding are kept behind each clip, if cached."""
    own = [item.tokens for item in items]
    kept = [
        min(n + more, item.speech.frames[item.index] // WINDOW)
        for item, n, more in zip(items, own, extra, strict=True)
    ]
    frames = max(kept) * WINDOW
    speech = np.zeros((len(items), frames, items[0].speech.states.shape[1]), np.float32)
    audio = np.zeros((len(items), frames, audio_width), np.float32)
    mask = np.zeros((len(items), frames, 1), np.float32)
    for row, item in enumerate(items):
        states = item.speech[item.index][: kept[row] * WINDOW]
        speech[row, : len(states)] = states
        if item.audio is not None:
            states = item.audio[item.index][:frames]
            audio[row, : len(states)] = states
            mask[row, : len(states)] = 1
    arrays = (torch.from_numpy(x) for x in (speech, audio, mask))
    return States(*arrays, torch.tensor(kept), torch.tensor(own))
