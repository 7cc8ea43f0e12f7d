"""Clips heard once and answered many times, as a search for words or decode settings needs them.

Neither changes what the encoders and the connector give, which is most of the work of an answer. The audio
tokens of every clip are kept, clip by clip, so that no answer depends on which clips were heard together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import batches
from audiolm_compress.passes.base import Progress
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.generation import end_ids
from audiolm_compress.salmonn.hearing import AudioTokens
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.prompts import Prompts


@dataclass(frozen=True)
class Answer:
    """A text, and how many tokens were decoded for it: up to an end token of the LLM, that included."""

    text: str
    tokens: int


class HeardClips:
    """Clips and their audio tokens.

    Args:
        model: hears them now and answers later; only its prompts and decode settings may change meanwhile.
        examples: the clips.
        batch_size: clips that are answered together.
        seed: where decode settings sample, every batch draws from it anew.
        progress: gets a step for every clip that is heard.
    """

    def __init__(
        self, model: Salmonn, examples: Sequence[Example], batch_size: int, seed: int, progress: Progress
    ) -> None:
        self.examples = examples
        self._model, self._batch_size, self._seed = model, batch_size, seed
        self._rows: dict[int, torch.Tensor] = {}
        for example in examples:
            with torch.inference_mode():
                tokens = model.encode_audio([example.waveform])
            self._rows[id(example)] = tokens.embeddings[0][tokens.mask[0].bool()]
            progress.advance()

    @torch.inference_mode()
    def answers(
        self, indices: Sequence[int], prompts: Prompts, decode: Callable[[str], DecodeSettings]
    ) -> list[Answer]:
        """Answer some of the clips.

        Args:
            indices: which ones; those that are answered together depend on this alone.
            prompts: what is asked.
            decode: the settings of a task.
        """
        found: dict[int, Answer] = {}
        for batch in batches([self.examples[index] for index in indices], self._batch_size):
            rows = [self._rows[id(example)] for example in batch]
            mask = [torch.ones(len(row), dtype=torch.int64, device=row.device) for row in rows]
            audio = AudioTokens(pad_sequence(rows, batch_first=True), pad_sequence(mask, batch_first=True))
            around = [prompts.around(example.task, None, example.question) for example in batch]
            settings = decode(batch[0].task)
            with torch.random.fork_rng(enabled=settings.do_sample):
                if settings.do_sample:
                    torch.manual_seed(self._seed)
                inputs = self._model.wrap(audio, around, padding_side="left")
                ids = self._model.generate_ids(inputs, settings)
            ends = set(end_ids(self._model)[0])
            for example, text, row in zip(batch, self._model.texts(ids, settings), ids.tolist(), strict=True):
                found[id(example)] = Answer(text, decoded_tokens(row, ends))
        return [found[id(self.examples[index])] for index in indices]


def decoded_tokens(ids: Sequence[int], ends: set[int]) -> int:
    """Tokens of a row up to its first end, that included; what fills up the row behind it costs nothing.

    >>> decoded_tokens([5, 6, 1, 1], {1})
    3
    """
    return next((place for place, token in enumerate(ids, start=1) if token in ends), len(ids))
