"""First stage: a language model learns to read audio tokens that were made from text instead of sound.

A sentence's units are spread over time as speech spreads them: about eleven places a second, most of them
blank, some units lost, some exchanged, and noise on top.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from network import HALVES, PROMPTS, Network, Wording, Words
from torch import Tensor

BLANK = 0


def spread(units: Sequence[int], count: int, rng: random.Random) -> list[int]:
    """Units among blanks as an imperfect recogniser would place them; a multiple of ``HALVES`` places."""
    places: list[int] = [BLANK] * rng.randint(0, 3)
    for unit in units:
        if rng.random() < 0.04:
            continue
        if unit >= count:  # a sound
            places += [BLANK] * rng.randint(0, 25) + [unit] * rng.randint(1, 3) + [BLANK] * rng.randint(0, 15)
            continue
        places.append(rng.randrange(1, count) if rng.random() < 0.06 else unit)
        places += [BLANK] * rng.choice((0, 0, 1, 1, 1, 2, 3))
    places += [BLANK] * rng.randint(0, 6)
    return places + [BLANK] * (-len(places) % HALVES)


def read_aloud(
    network: Network, wording: Wording, rows: Sequence[tuple[str, list[int]]], count: int, rng: random.Random
) -> Tensor:
    """Loss of writing down texts from their units.

    ``rows`` hold text and units; units from ``count`` on stand for sounds, and their texts are captions.
    """
    places = [spread(units, count, rng) for _, units in rows]
    kept = torch.tensor([len(p) // HALVES for p in places])
    ids = torch.zeros(len(rows), int(kept.max()) * HALVES, dtype=torch.int64)
    for row, p in zip(ids, places, strict=True):
        row[: len(p)] = torch.tensor(p, dtype=torch.int64)
    tokens = network.units.sum_of(ids.unflatten(1, (-1, HALVES)))
    tokens = tokens + torch.randn_like(tokens) * 0.5 * tokens.shape[-1] ** -0.5
    words: list[Words] = [
        wording(rng.choice(PROMPTS.train["asr" if units[0] < count else "audiocaption"]), text)
        for text, units in rows
    ]
    return network.text_loss(tokens, kept, words, corrupt=0.1)


def plan_reading(rows: Sequence[tuple[str, list[int]]], epoch: int, size: int = 64) -> list[list[int]]:
    """Batches of texts of similar length in random order."""
    rng = random.Random(epoch)
    order = rng.sample(range(len(rows)), len(rows))
    batches = []
    for begin in range(0, len(order), 6400):
        pool = sorted(order[begin : begin + 6400], key=lambda i: len(rows[i][0]))
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    rng.shuffle(batches)
    return batches
