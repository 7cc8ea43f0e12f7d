"""Text around audio tokens: what the LLM's blocks get of a clip, for generation and for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from audiolm_compress.data.example import Example
from audiolm_compress.salmonn.hearing import AudioTokens, Hearing
from audiolm_compress.salmonn.prompts import Prompts
from audiolm_compress.salmonn.stages import stage

IGNORED = -100


@dataclass(frozen=True)
class Inputs:
    """What the LLM's blocks get.

    Attributes:
        embeds: [batch, length, hidden], the embedding scale applied.
        mask: int64 [batch, length].
        labels: in training, int64 [batch, length]; -100 is ignored.
        prefixes: for generation, the token ids of each row before its audio.
        positions: int64 [batch, length]; None if they are those of the mask, without gaps.
    """

    embeds: Tensor
    mask: Tensor
    labels: Tensor | None = None
    prefixes: tuple[tuple[int, ...], ...] | None = None
    positions: Tensor | None = None


class Wrapping(Hearing):
    """Clips and texts in, inputs of the LLM out.

    Attributes:
        tokenizer: of the LLM.
        prompts: instructions per task.
        end_symbol: text that ends every answer in training.
        max_text_tokens: longest text in training, end symbol included.
        audio_positions: positions that the audio takes up in the LLM however many tokens it has; None: one a
            token. Set to the tokens of 30 s, the text behind shorter audio stays where it was in training.
    """

    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    end_symbol: str
    max_text_tokens: int
    audio_positions: int | None

    def prepare(self, waveforms: Sequence[Tensor], task: str = "asr", prompt: str | None = None) -> Inputs:
        """Prompt and audio of clips, ready for generation: bos, before, audio, after."""
        around = [self.prompts.around(task, prompt)] * len(waveforms)
        return self.wrap(self.encode_audio(waveforms), around, padding_side="left")

    def prepare_examples(self, examples: Sequence[Example]) -> Inputs:
        """As ``prepare``, each example with the instruction of its own task and its question."""
        audio = self.encode_audio([example.waveform for example in examples])
        return self.wrap(audio, self._around(examples), padding_side="left")

    def prepare_training(self, examples: Sequence[Example]) -> Inputs:
        """Prompt, audio and reference text with its end symbol; labels are set on the text alone."""
        audio = self.encode_audio([example.waveform for example in examples])
        return self.wrap(audio, self._around(examples), [example.text for example in examples])

    @stage("prefill")
    def wrap(
        self,
        audio: AudioTokens,
        around: Sequence[tuple[str, str]],
        texts: Sequence[str] | None = None,
        *,
        padding_side: str = "right",
    ) -> Inputs:
        """Put text around audio tokens.

        Args:
            audio: tokens of ``batch`` clips.
            around: the text before and after the audio of each clip, see ``Prompts.around``.
            texts: reference texts; each is followed by the end symbol and cut to ``max_text_tokens``.
            padding_side: generation must continue from the last position, so it pads on the left;
                upstream's training form pads on the right.

        Returns:
            Inputs, with labels if there are texts.
        """
        embedding = self.causal_lm.get_input_embeddings()
        scale = getattr(embedding, "embed_scale", 1.0)
        rows, labels, starts, positions = [], [], [], []
        for index, (before, after) in enumerate(around):
            kept = audio.mask[index].bool()
            heard = audio.embeddings[index][kept]
            answer = [] if texts is None else self.answer_ids(texts[index])
            start, rest = self._bos() + self._ids(before), self._ids(after) + answer
            starts.append(tuple(start))
            words = embedding(torch.tensor(start + rest, device=self.device, dtype=torch.int64))
            heard = heard.to(words.dtype) * scale
            rows.append(torch.cat((words[: len(start)], heard, words[len(start) :])))
            gap = max(0, (self.audio_positions or 0) - len(heard))
            places = torch.arange(len(rows[-1]), device=self.device)
            positions.append(places + gap * (places >= len(start) + len(heard)))
            ignored = len(rows[-1]) - len(answer)
            labels.append(torch.tensor([IGNORED] * ignored + answer, device=self.device))
        mask = [torch.ones(len(row), dtype=torch.int64, device=self.device) for row in rows]
        return Inputs(
            _pad(rows, 0.0, padding_side),
            _pad(mask, 0, padding_side),
            None if texts is None else _pad(labels, IGNORED, padding_side),
            tuple(starts) if texts is None else None,
            None if self.audio_positions is None else _pad(positions, 0, padding_side),
        )

    def training_lengths(self, examples: Sequence[Example]) -> list[int]:
        """Positions of each example in ``prepare_training``, counted without computing anything."""
        waveforms = [example.waveform for example in examples]
        lengths = []
        for example, (before, after) in zip(examples, self._around(examples), strict=True):
            text = [*self._bos(), *self._ids(before), *self._ids(after), *self.answer_ids(example.text)]
            lengths.append(len(text))
        for indices in self.buckets(waveforms):
            tokens = self.token_count(max(len(waveforms[index]) for index in indices))
            for index in indices:
                lengths[index] += tokens
        return lengths

    def _around(self, examples: Sequence[Example]) -> list[tuple[str, str]]:
        return [self.prompts.around(example.task, None, example.question) for example in examples]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _bos(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    def answer_ids(self, text: str) -> list[int]:
        """What is learnt of a reference text: its tokens and the end symbol's, cut to ``max_text_tokens``."""
        return self._ids(text + self.end_symbol)[: self.max_text_tokens]


def _pad(rows: list[Tensor], value: float, side: str) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
