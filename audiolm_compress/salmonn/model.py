"""The model: speech encoder, audio encoder, connector and LLM as named parts.

Data flows one way: waveforms -> encoder states -> audio tokens -> prompt around them -> LLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.data.example import Example
from audiolm_compress.runtime.answers import Reading
from audiolm_compress.runtime.attention import NOWHERE, additive, visible
from audiolm_compress.runtime.settings import RuntimeSettings
from audiolm_compress.salmonn.beats import Beats
from audiolm_compress.salmonn.connector import Connector
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.generation import (
    native_ids,
    prefill,
    runs_natively,
    runtime_note,
    transformers_ids,
)
from audiolm_compress.salmonn.prompts import Prompts
from audiolm_compress.salmonn.stages import stage
from audiolm_compress.salmonn.wrapping import IGNORED, Inputs, Wrapping


class Salmonn(Wrapping):
    """An audio language model of the SALMONN family.

    Args:
        speech_encoder: Whisper's encoder.
        audio_encoder: BEATs, or None for a model that hears through Whisper alone.
        connector: turns encoder states into audio tokens.
        llm: any causal LM of transformers, or a peft model around one (LoRA unmerged).
        tokenizer: of the LLM, with a pad token.
        feature_extractor: makes Whisper's log-mel input.
        prompts: instructions per task.
        decode: settings of generation under ``default`` and, where they differ, per task.
        end_symbol: see ``Wrapping``.
        max_text_tokens: see ``Wrapping``.
        bucket_seconds: see ``Hearing``.
        audio_positions: see ``Wrapping``.
        prompt_cache: whether what stands before the audio is read once and its keys and values kept.

    Attributes:
        runtime: what runs the LLM; may be set anew at any time, and is not saved.
    """

    def __init__(
        self,
        speech_encoder: WhisperEncoder,
        audio_encoder: Beats | None,
        connector: Connector,
        llm: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        feature_extractor: WhisperFeatureExtractor,
        prompts: Prompts,
        decode: Mapping[str, DecodeSettings] | None = None,
        end_symbol: str = "</s>",
        max_text_tokens: int = 300,
        bucket_seconds: float | None = None,
        audio_positions: int | None = None,
        prompt_cache: bool = False,
    ) -> None:
        super().__init__()
        self.speech_encoder = speech_encoder
        self.audio_encoder = audio_encoder
        self.connector = connector
        self.llm = llm
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.prompts = prompts
        self.decode = {"default": DecodeSettings(end_sym=end_symbol)} if decode is None else dict(decode)
        self.end_symbol = end_symbol
        self.max_text_tokens = max_text_tokens
        self.bucket_seconds = bucket_seconds
        self.audio_positions = audio_positions
        self.runtime = RuntimeSettings()
        self.prompt_cache = prompt_cache

    # The LLM over prepared inputs

    def logits(self, examples: Sequence[Example]) -> Tensor:
        """Teacher-forced logits [batch, length, vocabulary] of prompt, audio and reference text."""
        return self.score(self.prepare_training(examples))

    def score(self, inputs: Inputs) -> Tensor:
        """Logits [batch, length, vocabulary] at every position."""
        return self.llm(
            inputs_embeds=inputs.embeds,
            attention_mask=self._attention_mask(inputs),
            position_ids=inputs.positions,
            use_cache=False,
        ).logits

    def _attention_mask(self, inputs: Inputs) -> Tensor | dict[str, Tensor]:
        """What attention may see; written out where sliding windows meet gaps between positions.

        The LLM learned what a window leaves out by position; transformers would count columns.
        """
        config = self.causal_lm.config
        if inputs.positions is None or "sliding_attention" not in (
            getattr(config, "layer_types", None) or ()
        ):
            return inputs.mask
        columns = torch.arange(inputs.mask.shape[1], device=self.device)
        keys = torch.where(inputs.mask.bool(), inputs.positions, NOWHERE)
        windows = {"full_attention": None, "sliding_attention": config.sliding_window}
        return {
            kind: additive(visible(inputs.positions, columns, keys, window), inputs.embeds.dtype)[:, None]
            for kind, window in windows.items()
        }

    def loss(self, examples: Sequence[Example]) -> Tensor:
        """Mean cross-entropy of the reference texts and their end symbols, over all their tokens."""
        return self.text_loss(self.prepare_training(examples))

    def text_loss(self, inputs: Inputs) -> Tensor:
        """``loss`` of prepared inputs, which must have labels."""
        assert inputs.labels is not None, "prepare the inputs with texts"
        logits = self.score(inputs)[:, :-1].float()
        return F.cross_entropy(logits.flatten(0, 1), inputs.labels[:, 1:].flatten(), ignore_index=IGNORED)

    @stage("prefill")
    def prefill(self, inputs: Inputs, room: int = 64) -> tuple[Tensor, Reading]:
        """Read the prompt.

        Args:
            inputs: padded on the left.
            room: new tokens to have memory for; more make the cache grow.

        Returns:
            Logits of the next token [batch, vocabulary], and the text to read on with ``decode_step``.
        """
        return prefill(self, inputs, room)

    def decode_step(self, token_ids: Tensor, reading: Reading) -> Tensor:
        """Read one more token.

        Args:
            token_ids: int64 [batch].
            reading: from ``prefill``; gets longer by this token.

        Returns:
            Logits of the next token [batch, vocabulary].
        """
        return reading.step(token_ids)

    @torch.inference_mode()
    def generate(
        self, waveforms: Sequence[Tensor], task: str = "asr", prompt: str | None = None, **decode: Any
    ) -> list[str]:
        """Answer about clips.

        Args:
            waveforms: see ``encode_audio``.
            task: chooses the instruction and the decode settings.
            prompt: own words instead of the task's instruction.
            decode: changes to the decode settings, such as ``num_beams=1``.

        Returns:
            One text a clip, without special tokens.
        """
        settings = self.decode_settings(task, **decode)
        return self.texts(self.generate_ids(self.prepare(waveforms, task, prompt), settings), settings)

    def decode_settings(self, task: str, **changes: Any) -> DecodeSettings:
        """The settings for a task, with changes."""
        base = self.decode.get(task, self.decode["default"])
        return DecodeSettings.model_validate(base.model_dump() | changes)

    @torch.inference_mode()
    def generate_ids(self, inputs: Inputs, settings: DecodeSettings) -> Tensor:
        """Token ids [batch, new tokens] that ``transformers``' generation gives after ``inputs``.

        Greedy and beam search run natively where ``runtime`` allows and the LLM is known; sampling is always
        left to transformers.
        """
        if settings.do_sample or not runs_natively(self):
            return transformers_ids(self, inputs, settings)
        return native_ids(self, inputs, settings)

    @property
    def runtime_note(self) -> str:
        """What a reader of timings must know about how the LLM runs; "" if it runs natively."""
        return runtime_note(self)

    def texts(self, token_ids: Tensor, settings: DecodeSettings) -> list[str]:
        """Words of generated ids: cut at the end symbol, special tokens removed, stripped."""
        answers = []
        for row in token_ids.tolist():
            answer = self.tokenizer.decode(row, skip_special_tokens=False).split(settings.end_sym)[0]
            for token in self.tokenizer.all_special_tokens:
                answer = answer.replace(token, "")
            answers.append(answer.strip())
        return answers
