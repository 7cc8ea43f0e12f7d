"""Second stage: connector and language model learn from cached states of real and synthetic clips."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from data import Item, States, Targets, collate
from network import PROMPTS, TOKENS, Network, Wording
from padding import Bank, hear_padded
from torch import Tensor

from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.wer import wer

LONGEST_ANSWER = 60
ALL = 1500  # more audio tokens than any clip has


def mask_states(states: States) -> States:
    """SpecAugment on states: spans of frames, bands of channels, now and then a whole encoder to zero."""
    speech, audio, mask = states.speech.clone(), states.audio.clone(), states.audio_mask.clone()
    batch, frames, _ = speech.shape
    time = torch.arange(frames)
    for _ in range(2):
        # Spans grow with the clip: at most a tenth of it, and never more than 0.5 s.
        width = torch.rand(batch) * (states.own * 0.8).clamp(max=25)
        start = torch.rand(batch) * (states.own * 8 - width)
        hidden = (time >= start[:, None]) & (time < (start + width)[:, None])
        speech.masked_fill_(hidden[..., None], 0)
        audio.masked_fill_(hidden[..., None], 0)
    for x in (speech, audio):
        low = int(torch.randint(x.shape[-1], ()))
        x[..., low : low + int(torch.randint(1, x.shape[-1] // 10, ()))] = 0
    mask *= (torch.rand(batch, 1, 1) > 0.1).float()
    return replace(states, speech=speech, audio=audio, audio_mask=mask)


def listen(
    network: Network,
    wording: Wording,
    targets: Targets,
    items: Sequence[Item],
    audio_width: int,
    rng: random.Random,
    *,
    ctc_weight: float = 0.5,
    bank: Bank | None = None,
    whole: bool = False,
) -> Tensor:
    """Loss of a batch: cross-entropy of the texts and, for speech, CTC on the audio tokens.

    With a ``bank``, the language model reads the padded form; ``whole`` reads all states that are cached, for
    caches of clips at their own length.
    """
    extra = [ALL if whole else rng.randint(0, 5) for _ in items]
    states = mask_states(collate(items, extra=extra, audio_width=audio_width))
    tokens = network.hear(states) if bank is None else hear_padded(network, bank, states, rng)
    kept = states.tokens if bank is None else torch.full_like(states.tokens, TOKENS)
    texts = [item.clip.text if item.kind == "asr" else caption(item, rng) for item in items]
    words = [
        wording(rng.choice(PROMPTS.train[item.clip.task]), text)
        for item, text in zip(items, texts, strict=True)
    ]
    loss = network.text_loss(tokens, kept, words, corrupt=0.2, gap=not whole)
    wanted = [targets(item.clip) for item in items]
    if ctc_weight and any(wanted):
        loss = loss + ctc_weight * network.ctc_loss(tokens[:, : int(states.own.max())], states.own, wanted)
    return loss


def caption(item: Item, rng: random.Random) -> str:
    """The first caption of a clip more often than the others, so that there is one to settle on."""
    texts = item.clip.texts
    return texts[0] if rng.random() < 0.7 or not texts else rng.choice(texts)


@torch.inference_mode()
def answers(
    network: Network,
    wording: Wording,
    items: Sequence[Item],
    audio_width: int,
    bank: Bank | None = None,
    whole: bool = False,
) -> list[str]:
    """Greedy answers to the test prompts; ``bank`` and ``whole`` as in ``listen``."""
    texts = [""] * len(items)
    order = sorted(range(len(items)), key=lambda i: items[i].tokens)
    for begin in range(0, len(order), 32):
        chosen = order[begin : begin + 32]
        batch = [items[i] for i in chosen]
        states = collate(batch, extra=[ALL if whole else 3] * len(batch), audio_width=audio_width)
        words = [wording(PROMPTS.test[item.clip.task], "") for item in batch]
        tokens, kept = network.hear(states), states.tokens
        if bank is not None:
            tokens = hear_padded(network, bank, states, random.Random(0))
            kept = torch.full_like(kept, TOKENS)
        ids = network.greedy(tokens, kept, words, LONGEST_ANSWER, gap=not whole)
        for i, row in zip(chosen, ids, strict=True):
            texts[i] = wording.text(row)
    return texts


@torch.inference_mode()
def ctc_texts(network: Network, targets: Targets, items: Sequence[Item], audio_width: int) -> list[str]:
    """What the CTC units alone say: a look at the connector without the language model."""
    texts = []
    for item in items:
        states = collate([item], extra=[0], audio_width=audio_width)
        texts.append(
            targets.text(network.units.log_probabilities(network.hear(states))[0].argmax(-1).tolist())
        )
    return texts


def score(items: Sequence[Item], texts: Sequence[str]) -> float:
    """WER of answers about speech or CIDEr-D of those about sounds; all items are of one kind."""
    if items[0].kind == "asr":
        return wer(texts, [item.clip.text for item in items]).wer
    return cider_d(texts, [list(item.clip.texts) for item in items])[0]
