"""The passes that a recipe can name: this list is all there is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from audiolm_compress.passes.audio_token_rate import AudioTokenRate
from audiolm_compress.passes.base import Pass
from audiolm_compress.passes.cache_prompt import CachePrompt
from audiolm_compress.passes.cast import Cast
from audiolm_compress.passes.compute_positions import ComputePositions
from audiolm_compress.passes.decode_search import DecodeSearch
from audiolm_compress.passes.distill import Distill
from audiolm_compress.passes.drop_audio_encoder import DropAudioEncoder
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.layer_drop import LayerDrop
from audiolm_compress.passes.lora_recovery import LoraRecovery
from audiolm_compress.passes.low_rank import LowRank
from audiolm_compress.passes.merge_lora import MergeLora
from audiolm_compress.passes.prompt_search import PromptSearch
from audiolm_compress.passes.prune_width import PruneWidth
from audiolm_compress.passes.quantize_embedding import QuantizeEmbedding
from audiolm_compress.passes.quantize_encoder import QuantizeEncoder
from audiolm_compress.passes.scale_recovery import ScaleRecovery
from audiolm_compress.passes.unpad_audio import UnpadAudio
from audiolm_compress.passes.vocab_trim import VocabTrim

AnyPass = Annotated[
    MergeLora
    | CachePrompt
    | Cast
    | Gptq
    | PruneWidth
    | ComputePositions
    | QuantizeEmbedding
    | QuantizeEncoder
    | AudioTokenRate
    | DropAudioEncoder
    | UnpadAudio
    | VocabTrim
    | LayerDrop
    | LowRank
    | Distill
    | LoraRecovery
    | ScaleRecovery
    | PromptSearch
    | DecodeSearch,
    Field(discriminator="kind"),
]
PASSES: tuple[type[Pass], ...] = (
    MergeLora,
    PruneWidth,
    Cast,
    Gptq,
    ComputePositions,
    QuantizeEmbedding,
    QuantizeEncoder,
    AudioTokenRate,
    DropAudioEncoder,
    VocabTrim,
    UnpadAudio,
    CachePrompt,
    LayerDrop,
    LowRank,
    Distill,
    LoraRecovery,
    ScaleRecovery,
    PromptSearch,
    DecodeSearch,
)

__all__ = [
    "PASSES",
    "AnyPass",
    "AudioTokenRate",
    "CachePrompt",
    "Cast",
    "ComputePositions",
    "DecodeSearch",
    "Distill",
    "DropAudioEncoder",
    "Gptq",
    "LayerDrop",
    "LoraRecovery",
    "LowRank",
    "MergeLora",
    "PromptSearch",
    "PruneWidth",
    "QuantizeEmbedding",
    "QuantizeEncoder",
    "ScaleRecovery",
    "UnpadAudio",
    "VocabTrim",
]
