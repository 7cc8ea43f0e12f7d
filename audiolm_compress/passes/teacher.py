"""What the untouched baseline gives for clips: the lessons that a student is compared with.

The teacher hears and reads as it always did: clips padded to 30 s where the student hears them at their own
length, all layers, the whole vocabulary. Of what it gives, a lesson keeps what the student has a counterpart
for: the first frames of the states, the tokens that are left of the vocabulary. Comparing the states of a
student that hears clips at their own length with those of a teacher that heard 30 s is the matching that
un-padded Whisper needs.

Each clip is heard alone, so that a lesson never depends on the clips beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.salmonn.hearing import AudioTokens
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.wrapping import IGNORED, Inputs
from audiolm_compress.training.features import FeatureCache, digest, fingerprint

LayerMap = Mapping[int, int]


@dataclass(frozen=True)
class Wanted:
    """Which parts of a lesson are asked for.

    Attributes:
        speech: Whisper's states behind its last norm, and behind the teacher's layers of ``speech_layers``.
        audio: BEATs' states, and those behind the layers of ``audio_layers``.
        connector: audio tokens.
        logits: of the reference text.
        speech_layers: student's layer -> teacher's.
        audio_layers: student's layer -> teacher's.
    """

    speech: bool = True
    audio: bool = True
    connector: bool = True
    logits: bool = True
    speech_layers: LayerMap | None = None
    audio_layers: LayerMap | None = None


class Teacher:
    """The baseline, asked for what ``student`` can be compared with.

    Args:
        model: the untouched baseline.
        student: whose lengths, windows and vocabulary lessons follow.
        wanted: see ``Wanted``.
        features: keeps what the teacher gives, for passes that ask for it again.

    Raises:
        PassError: what is wanted has no counterpart in the student.
    """

    def __init__(
        self, model: Salmonn, student: Salmonn, wanted: Wanted, features: FeatureCache | None = None
    ) -> None:
        self.model, self.student, self.wanted, self.features = model, student, wanted, features
        self._identity = ""
        if features is not None:
            self._identity = digest(fingerprint(model), str(model.bucket_seconds), str(model.audio_positions))
        self.columns = None
        if wanted.logits:
            self.columns = shared_tokens(student.tokenizer, model.tokenizer)
        mine, theirs = model.connector.config, student.connector.config
        windows = [(config.window, config.stride, config.queries) for config in (mine, theirs)]
        if wanted.connector and windows[0] != windows[1]:
            raise PassError(
                f"the student's audio tokens stand for other windows (window, stride, queries {windows[1]}) "
                f"than the baseline's ({windows[0]}) and cannot be compared; set losses.connector to 0"
            )

    def lesson(self, example: Example) -> dict[str, Tensor]:
        """What the teacher gives for one clip, on the CPU, in float16 where its values fit into that.

        Keys: ``speech`` [frames, width], ``audio`` [tokens, width], ``connector`` [tokens, width], ``logits``
        [text tokens, shared tokens], and ``speech.i`` and ``audio.i`` behind the counterpart of the student's
        layer i. ``logits`` is missing if the two write the text in different tokens.
        """
        wanted, length = self.wanted, len(example.waveform)
        heard = self._kept(
            partial(self._hear, example.waveform), "heard", example.waveform, *self._extent(length)
        )
        lesson = {
            name: tensor
            for name, tensor in heard.items()
            if getattr(wanted, name.partition(".")[0], False)  # never true of `tokens`
        }
        if wanted.connector:
            lesson["connector"] = _compact(heard["tokens"][: self.student.token_count(length)])
        if wanted.logits and self._same_tokens(example.text):
            prompt = self.model.prompts.around(example.task, None, example.question)
            read = partial(self._read, heard["tokens"], prompt, example.text)
            told = self._kept(read, "read", example.waveform, *prompt, example.text, self._columns[1])
            lesson["logits"] = told["logits"]
        return lesson

    def _kept(
        self, compute: Callable[[], dict[str, Tensor]], *depends: str | int | Tensor
    ) -> dict[str, Tensor]:
        if self.features is None:
            return compute()
        return self.features.get(digest(self._identity, *depends), compute)

    def _extent(self, samples: int) -> tuple[str | int, ...]:
        """What the student compares of a clip of so many samples."""
        layers = (self.wanted.speech_layers or {}, self.wanted.audio_layers or {})
        maps = [f"{sorted(pairs.items())}" for pairs in layers]
        return self.student.frames([samples]), self.student.sound_tokens([samples]), *maps

    @torch.no_grad()
    def _hear(self, waveform: Tensor) -> dict[str, Tensor]:
        """States as the student has them, and all audio tokens."""
        model, samples = self.model, len(waveform)
        speech_layers, audio_layers = self.wanted.speech_layers or {}, self.wanted.audio_layers or {}
        with tapped(model, "speech_encoder", speech_layers.values()) as speech_taps:
            speech = model.encode_speech([waveform])
        with tapped(model, "audio_encoder", audio_layers.values()) as audio_taps:
            sound = model.encode_sound([waveform])
        frames = self.student.frames([samples])
        heard = {"tokens": model.connect(speech, sound).embeddings[0], "speech": _compact(speech[0, :frames])}
        for mine, theirs in speech_layers.items():
            heard[f"speech.{mine}"] = _compact(speech_taps[theirs][0, :frames])
        if sound is not None:
            count = self.student.sound_tokens([samples])
            heard["audio"] = _compact(sound[0, :count])
            for mine, theirs in audio_layers.items():
                heard[f"audio.{mine}"] = _compact(audio_taps[theirs][0, :count])
        return heard

    @torch.no_grad()
    def _read(self, tokens: Tensor, prompt: tuple[str, str], text: str) -> dict[str, Tensor]:
        """Logits of the reference text behind audio tokens [tokens, width]."""
        embeddings = tokens.to(self.model.device)[None]
        mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=self.model.device)
        inputs = self.model.wrap(AudioTokens(embeddings, mask), [prompt], [text])
        return {"logits": _compact(text_logits(self.model, inputs)[0][:, self._columns[1]])}

    @property
    def _columns(self) -> tuple[Tensor, Tensor]:
        assert self.columns is not None
        return self.columns

    def _same_tokens(self, text: str) -> bool:
        mine = self.model.tokenizer.convert_ids_to_tokens(self.model.answer_ids(text))
        return mine == self.student.tokenizer.convert_ids_to_tokens(self.student.answer_ids(text))


def _compact(tensor: Tensor) -> Tensor:
    half = tensor.to("cpu", torch.float16)
    return (half if torch.isfinite(half).all() else tensor.cpu().float()).contiguous()


def text_logits(model: Salmonn, inputs: Inputs) -> list[Tensor]:
    """Logits of every token of the reference texts, one tensor [text tokens, vocabulary] a row."""
    assert inputs.labels is not None, "prepare the inputs with texts"
    logits = model.score(inputs)[:, :-1]
    said = inputs.labels[:, 1:] != IGNORED
    return [row[kept] for row, kept in zip(logits, said, strict=True)]


def shared_tokens(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> tuple[Tensor, Tensor]:
    """Ids of the tokens that two tokenizers have in common, in the student's order: (student's, teacher's).

    Raises:
        PassError: they have none.
    """
    theirs = teacher.get_vocab()
    pairs = sorted((mine, theirs[token]) for token, mine in student.get_vocab().items() if token in theirs)
    if not pairs:
        raise PassError("the student's tokenizer shares no token with the baseline's; set losses.logits to 0")
    mine, other = zip(*pairs, strict=True)
    return torch.tensor(mine), torch.tensor(other)


@contextmanager
def tapped(model: Salmonn, part: str, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Inside, a run of ``part`` leaves the states behind each of ``layers`` in the dictionary yielded."""
    taken: dict[int, Tensor] = {}

    def note(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            taken[index] = output

        return hook

    wanted = sorted(set(layers))
    handles = [model.layers(part)[index].register_forward_hook(note(index)) for index in wanted]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()
