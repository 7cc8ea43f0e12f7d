"""The student's side of a recovery: it hears clips, reads texts, and is told how far it is from its lessons.

What nothing trained can change is computed once a clip: the states of a frozen encoder, or the audio tokens
where encoders and connector are frozen. It is kept on disk, beside the lessons, or in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.passes.distillation import logit_loss, state_loss
from audiolm_compress.passes.recovery_settings import COMPUTED_FROM, Losses
from audiolm_compress.passes.teacher import Teacher, tapped, text_logits
from audiolm_compress.salmonn.hearing import AudioTokens
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.wrapping import IGNORED, Inputs
from audiolm_compress.training.features import FeatureCache, digest, fingerprint


def teachable(losses: Losses, model: Salmonn, trained: set[str]) -> tuple[dict[str, float], list[str]]:
    """The losses that training can change, by name and weight; and a note on each that it cannot.

    Args:
        losses: weights as asked for.
        model: the student.
        trained: the parts that hold trained parameters.
    """
    weights, notes = {}, []
    for name, weight in losses.model_dump().items():
        if weight and name == "audio" and model.audio_encoder is None:
            notes.append("the audio loss is left out: the model has no audio encoder")
        elif weight and not trained & COMPUTED_FROM[name]:
            notes.append(f"the {name} loss is left out: nothing that is trained comes before it")
        elif weight:
            weights[name] = weight
    return weights, notes


class Student(nn.Module):
    """The model that learns, as a module whose forward pass is the loss of a batch of clips.

    Dropout is off but for that of LoRA: the teacher's answers hold no noise that could be imitated.

    Args:
        model: the student; parameters that require gradients are learned.
        examples: all clips, which batches refer to by number.
        lessons: of each clip, see ``Teacher.lesson``; empty without a loss that needs them.
        weights: loss -> weight, see ``teachable``.
        temperature: of the loss on logits.
        teacher: whose shared tokens and layer maps the lessons follow; None without lessons.
        features: keeps what frozen parts give; None keeps it in memory.
    """

    def __init__(
        self,
        model: Salmonn,
        examples: Sequence[Example],
        lessons: Sequence[Mapping[str, Tensor]],
        weights: Mapping[str, float],
        temperature: float,
        teacher: Teacher | None,
        features: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.examples, self.lessons = examples, lessons
        self.weights, self.temperature = weights, temperature
        self.speech_layers = tuple(teacher.wanted.speech_layers or ()) if teacher else ()
        self.audio_layers = tuple(teacher.wanted.audio_layers or ()) if teacher else ()
        self.columns = teacher.columns[0] if teacher and teacher.columns else None
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._features = features
        trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        self._frozen = {part for part in model.parts() if part not in trained}
        self._deep = bool(weights.keys() & {"connector", "logits", "text"})
        self._hears = bool(trained & {"speech_encoder", "audio_encoder", "connector"})
        self._identity = "" if features is None else _identity(model, self._frozen - {"llm"})

    def train(self, mode: bool = True) -> Student:
        """Switch the dropout of adapters; everything else computes as it will answer."""
        super().train(False)
        self.training = mode
        for name, module in self.model.named_modules():
            if "lora_dropout" in name.split("."):
                module.train(mode)
        return self

    def forward(self, batch: Sequence[int]) -> Tensor:
        """The weighted loss of clips by their numbers, a scalar."""
        found = self.losses(batch)
        return torch.stack([self.weights[name] * value for name, value in found.items()]).sum()

    def losses(self, batch: Sequence[int]) -> dict[str, Tensor]:
        """Each loss of ``weights`` on clips that the model pads to one length: name -> scalar.

        The means of states weigh positions alike, those of logits and text tokens; padding has no part.
        """
        found: dict[str, Tensor] = {}
        with (
            tapped(self.model, "speech_encoder", self.speech_layers) as speech_taps,
            tapped(self.model, "audio_encoder", self.audio_layers) as audio_taps,
        ):
            speech = self._states("speech_encoder", batch) if self._needs("speech") else None
            sound = self._states("audio_encoder", batch) if self._needs("audio") else None
        if "speech" in self.weights:
            assert speech is not None
            found["speech"] = self._state_losses("speech", {"": speech} | _dotted(speech_taps), batch)
        if "audio" in self.weights:
            assert sound is not None
            found["audio"] = self._state_losses("audio", {"": sound} | _dotted(audio_taps), batch)
        if not self._deep:
            return found
        tokens = self._tokens(batch) if speech is None else self.model.connect(speech, sound)
        if "connector" in self.weights:
            found["connector"] = self._state_losses("connector", {"": tokens.embeddings}, batch)
        if self.weights.keys() & {"logits", "text"}:
            found |= self._text_losses(tokens, batch)
        return found

    def _needs(self, stream: Literal["speech", "audio"]) -> bool:
        """Whether the states of an encoder are asked for by a loss on them or behind them."""
        there = stream == "speech" or self.model.audio_encoder is not None
        return there and (stream in self.weights or (self._deep and self._hears))

    def _state_losses(self, stream: str, states: Mapping[str, Tensor], batch: Sequence[int]) -> Tensor:
        """The mean over the compared layers; clips count by their positions."""
        values = []
        for suffix, found in states.items():
            lessons = [self.lessons[index][stream + suffix] for index in batch]
            rows = [row[: len(lesson)] for row, lesson in zip(found, lessons, strict=True)]
            lessons = [lesson[: len(row)] for row, lesson in zip(rows, lessons, strict=True)]
            expected = torch.cat([lesson.to(found.device, torch.float32) for lesson in lessons])
            values.append(state_loss(torch.cat(rows), expected))
        return torch.stack(values).mean()

    def _text_losses(self, tokens: AudioTokens, batch: Sequence[int]) -> dict[str, Tensor]:
        examples = [self.examples[index] for index in batch]
        around = [self.model.prompts.around(e.task, None, e.question) for e in examples]
        inputs = self.model.wrap(tokens, around, [example.text for example in examples])
        rows = text_logits(self.model, inputs)
        found: dict[str, Tensor] = {}
        if "logits" in self.weights:
            assert self.columns is not None
            pairs = [
                (row[:, self.columns], self.lessons[index]["logits"].to(row.device, torch.float32))
                for row, index in zip(rows, batch, strict=True)
                if "logits" in self.lessons[index]
            ]
            if pairs:
                mine, theirs = (torch.cat(side) for side in zip(*pairs, strict=True))
                found["logits"] = logit_loss(mine, theirs, self.temperature)
        if "text" in self.weights:
            found["text"] = F.cross_entropy(torch.cat(rows).float(), said(inputs))
        return found

    def _states(self, part: str, batch: Sequence[int]) -> Tensor:
        """States [batch, positions, width] of an encoder, remembered where it is frozen."""
        encode = self.model.encode_speech if part == "speech_encoder" else self._encode_sound
        if part not in self._frozen:
            return encode([self.examples[index].waveform for index in batch])
        return _stack([self._remembered(part, index, partial(self._alone, encode, index)) for index in batch])

    def _encode_sound(self, waveforms: Sequence[Tensor]) -> Tensor:
        states = self.model.encode_sound(waveforms)
        assert states is not None
        return states

    def _tokens(self, batch: Sequence[int]) -> AudioTokens:
        """Audio tokens of frozen encoders and connector."""

        def hear(index: int) -> Tensor:
            return self.model.encode_audio([self.examples[index].waveform]).embeddings[0]

        rows = [self._remembered("tokens", index, partial(hear, index)) for index in batch]
        mask = [row.new_ones(len(row), dtype=torch.int64) for row in rows]
        return AudioTokens(_stack(rows), nn.utils.rnn.pad_sequence(mask, batch_first=True))

    def _alone(self, encode: Callable[[Sequence[Tensor]], Tensor], index: int) -> Tensor:
        return encode([self.examples[index].waveform])[0]

    def _remembered(self, what: str, index: int, compute: Callable[[], Tensor]) -> Tensor:
        """What frozen parts give for a clip, computed as they will answer: without autocast."""

        @torch.no_grad()
        def exact() -> Tensor:
            with torch.autocast(self.model.device.type, enabled=False):
                return compute()

        if self._features is not None:
            key = digest(self._identity, what, self.examples[index].waveform)
            return self._features.get(key, lambda: {"kept": exact()})["kept"].to(self.model.device)
        if (what, index) not in self._kept:
            self._kept[what, index] = exact()
        return self._kept[what, index]


def _identity(model: Salmonn, parts: set[str]) -> str:
    """What the outputs of frozen parts depend on, beside the clip."""
    found = [fingerprint(model.parts()[part]) for part in sorted(parts)]
    return digest("student", *sorted(parts), *found, model.bucket_seconds)


def said(inputs: Inputs) -> Tensor:
    """Ids of the tokens of all reference texts, in the order of ``text_logits``."""
    assert inputs.labels is not None
    labels = inputs.labels[:, 1:]
    return labels[labels != IGNORED]


def _dotted(taps: Mapping[int, Tensor]) -> dict[str, Tensor]:
    return {f".{layer}": states for layer, states in taps.items()}


def _stack(rows: Sequence[Tensor]) -> Tensor:
    """[batch, positions, width] of rows that may differ in length, zeros behind the shorter ones."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
