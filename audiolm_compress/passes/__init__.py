"""The passes that a recipe can name: this list is all there is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from audiolm_compress.passes.audio_token_rate import AudioTokenRate
from audiolm_compress.passes.base import Pass
from audiolm_compress.passes.cast import Cast
from audiolm_compress.passes.drop_audio_encoder import DropAudioEncoder
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.merge_lora import MergeLora
from audiolm_compress.passes.quantize_embedding import QuantizeEmbedding
from audiolm_compress.passes.unpad_audio import UnpadAudio

AnyPass = Annotated[
    MergeLora | Cast | Gptq | QuantizeEmbedding | AudioTokenRate | DropAudioEncoder | UnpadAudio,
    Field(discriminator="kind"),
]
PASSES: tuple[type[Pass], ...] = (
    MergeLora,
    Cast,
    Gptq,
    QuantizeEmbedding,
    AudioTokenRate,
    DropAudioEncoder,
    UnpadAudio,
)

__all__ = [
    "PASSES",
    "AnyPass",
    "AudioTokenRate",
    "Cast",
    "DropAudioEncoder",
    "Gptq",
    "MergeLora",
    "QuantizeEmbedding",
    "UnpadAudio",
]
