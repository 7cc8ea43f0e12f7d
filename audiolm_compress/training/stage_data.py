"""Batches of a stage: which clips, with which prompts, and what the frozen encoders hear in them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from audiolm_compress.data.annotation import Entry, read_annotation
from audiolm_compress.data.audio import audio_problem, load_audio
from audiolm_compress.errors import DataError
from audiolm_compress.salmonn.hearing import AudioTokens
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.wrapping import IGNORED, Inputs
from audiolm_compress.training.features import FeatureCache, digest, fingerprint


def read_entries(annotation: str, prefix: str | None) -> list[Entry]:
    """The entries of an annotation file; audio is decoded when its batch comes.

    Raises:
        DataError: the annotation is unusable, or audio files are missing, empty, cut short or no audio.
    """
    entries = read_annotation(annotation, prefix=prefix)
    with ThreadPoolExecutor(max_workers=8) as pool:
        reasons = list(pool.map(lambda entry: entry.outside() or audio_problem(entry.file), entries))
    bad = [f"  {e.file}: {reason}" for e, reason in zip(entries, reasons, strict=True) if reason]
    if bad:
        raise DataError(
            f"{annotation}: {len(bad)} of {len(entries)} audio files cannot be used:\n"
            + "\n".join(bad)
            + "\nRepair or remove them."
        )
    return entries


def shuffled(count: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of ``count`` clips in random batches of ``size``, without the incomplete last one."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    size = min(size, count)
    return [order[start : start + size] for start in range(0, count - size + 1, size)]


def check_prompts(prompts: Mapping[str, Sequence[str]], entries: Sequence[Entry]) -> None:
    """Every task needs a prompt to be trained with.

    Raises:
        DataError: names the tasks that have none.
    """
    missing = sorted({entry.task for entry in entries if not prompts.get(entry.task)})
    if missing:
        raise DataError(
            f"no training prompt for task {', '.join(missing)}; there are some for "
            f"{', '.join(sorted(prompts)) or 'no task'}; add them to the file model.prompt_path names"
        )


def sampled_around(
    model: Salmonn, entries: Sequence[Entry], rng: random.Random, *, each: bool
) -> list[tuple[str, str]]:
    """The text around the audio, its instruction drawn from the training prompts of the clip's task.

    Args:
        model: has the prompts.
        entries: of a batch, of any tasks.
        rng: draws.
        each: draw for each clip (upstream's ``multi_prompt``) or once a task.
    """
    drawn = {task: rng.choice(model.prompts.train[task]) for task in sorted({e.task for e in entries})}
    around = []
    for entry in entries:
        prompt = rng.choice(model.prompts.train[entry.task]) if each else drawn[entry.task]
        around.append(model.prompts.around(entry.task, prompt.replace("{}", entry.Q)))
    return around


def prepare(
    model: Salmonn,
    entries: Sequence[Entry],
    around: Sequence[tuple[str, str]],
    states: EncoderStates | None,
) -> tuple[Inputs, int]:
    """Prompt, audio and text of a batch, and how many tokens its loss is a mean over."""
    waveforms = [load_audio(entry.file).waveform for entry in entries]
    audio = model.encode_audio(waveforms) if states is None else states.audio_tokens(waveforms)
    inputs = model.wrap(audio, around, [entry.text for entry in entries])
    assert inputs.labels is not None
    return inputs, int((inputs.labels[:, 1:] != IGNORED).sum())


class EncoderStates:
    """The states of frozen encoders, from a cache.

    Cached are the states of each clip alone. Without a cache BEATs reads the shorter clips of a batch with
    the padding that the longest one gives them, as upstream does.
    """

    def __init__(self, model: Salmonn, cache: FeatureCache) -> None:
        self._model = model
        self._cache = cache
        encoders = (model.speech_encoder, model.audio_encoder)
        self._model_key = digest(
            model.feature_extractor.to_json_string(),
            model.bucket_seconds,
            *(fingerprint(encoder) for encoder in encoders if encoder is not None),
        )

    def audio_tokens(self, waveforms: Sequence[Tensor]) -> AudioTokens:
        """As ``Salmonn.encode_audio``, each clip heard alone."""
        tokens = []
        for waveform in waveforms:
            key = digest(self._model_key, waveform)
            states = self._cache.get(key, partial(self._encode, waveform))
            speech = states["speech"].to(self._model.device)
            sound = states["sound"].to(self._model.device) if "sound" in states else None
            tokens.append(self._model.connect(speech, sound).embeddings[0])
        mask = [row.new_ones(len(row), dtype=torch.int64) for row in tokens]
        pad = torch.nn.utils.rnn.pad_sequence
        return AudioTokens(pad(tokens, batch_first=True), pad(mask, batch_first=True))

    def _encode(self, waveform: Tensor) -> dict[str, Tensor]:
        # In the encoders' own precision: a run in 16 bit must not leave its roundings to one in 32 bit.
        with torch.autocast(self._model.device.type, enabled=False):
            sound = self._model.encode_sound([waveform])
            states = {"speech": self._model.encode_speech([waveform])}
        return states if sound is None else {**states, "sound": sound}
