"""The padded form: what the model reads at inference, 30 s of states for every clip.

The states behind the end of a clip depend little on the clip, so they are taken from a bank of other, shorter
clips that really were padded to 30 s and encoded whole. One clip of the bank serves a batch, and the
connector reads it once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data import States
from features import FRAME, RATE, Beats, Whisper
from network import TOKENS, WINDOW, Network
from shards import read_shard
from torch import Tensor

FRAMES = TOKENS * WINDOW


@dataclass(frozen=True)
class Bank:
    """Padded states of some clips.

    Attributes:
        speech: float16 [clips, 1496, width]: Whisper on the clip padded to 30 s.
        audio: float16 [clips, frames, width]: BEATs on the clip at the head of a longer batch: states under
        padding. tokens: audio tokens of each clip itself, int64 [clips].
    """

    speech: Tensor
    audio: Tensor
    tokens: Tensor


def make_bank(whisper: Whisper, beats: Beats, clips_dir: Path, names: Sequence[str], count: int) -> Bank:
    """Encode ``count`` clips, the shortest and some others of each shard."""
    whisper.tails = None
    speech, audio, tokens = [], [], []
    for name in names:
        clips, samples = read_shard(clips_dir, name)
        share = count // len(names)
        order = sorted(range(len(clips)), key=lambda i: clips[i].samples)
        chosen = order[: share // 2] + order[share // 2 :: max(1, len(order) // (share - share // 2))]
        for i in chosen[:share]:
            wave = samples[clips[i].offset :][: clips[i].samples].astype(np.float32) / 32768
            mel = whisper.mel(wave, whisper.encoder.config.max_source_positions)
            speech.append(whisper.states(mel[None])[0, :FRAMES].to(torch.float16))
            audio.append(_under_padding(beats, wave))
            tokens.append(-(-len(wave) // (FRAME * WINDOW)))
    return Bank(torch.stack(speech), torch.stack(audio), torch.tensor(tokens))


@torch.inference_mode()
def _under_padding(beats: Beats, wave: np.ndarray, seconds: int = 12) -> Tensor:
    """BEATs states of a clip padded to ``seconds`` with a mask, as in a batch with a longer clip."""
    waves = torch.zeros(1, seconds * RATE)
    waves[0, : len(wave)] = torch.from_numpy(wave[: seconds * RATE])
    padding = torch.arange(waves.shape[1])[None] >= max(len(wave), RATE)
    return beats.encoder(waves, padding if padding.any() else None).features[0].to(torch.float16)


def hear_padded(network: Network, bank: Bank, states: States, rng: random.Random) -> Tensor:
    """Audio tokens [batch, 187, hidden]: those of ``states``, behind each clip those of the bank."""
    shortest = int(states.tokens.min())
    usable = [i for i, n in enumerate(bank.tokens.tolist()) if n <= shortest]
    row = rng.choice(usable) if usable else int(bank.tokens.argmin())
    speech = bank.speech[row : row + 1].float()
    audio = torch.zeros(1, FRAMES, states.audio.shape[-1])
    mask = torch.zeros(1, FRAMES, 1)
    if rng.random() < 0.3:  # what a batch with a longer clip does to BEATs
        covered = rng.randint(1, bank.audio.shape[1])
        audio[0, :covered], mask[0, :covered] = bank.audio[row, :covered].float(), 1.0
    full = torch.tensor([TOKENS])
    tail = network.hear(States(speech, audio, mask, full, full))
    own = network.hear(states)
    place = torch.arange(TOKENS)
    own = torch.nn.functional.pad(own, (0, 0, 0, TOKENS - own.shape[1]))
    return torch.where((place < states.tokens[:, None])[..., None], own, tail)


def load_bank(path: Path, clips: Path, whisper: Path, beats: Path) -> Bank:
    """The bank in a file; made at the first call, from training clips and the weights of both encoders."""
    if not path.exists():
        bank = make_bank(Whisper(whisper), Beats(beats), clips, ("asr_train", "aac_train"), 96)
        torch.save(vars(bank), path)
    return Bank(**torch.load(path, weights_only=True))
