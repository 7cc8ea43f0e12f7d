"""What a model computes and reads for one clip: FLOPs until the first token, bytes per further token.

Counted are the products of matrices (linear layers, convolutions, attention), a multiplication and an
addition each; norms and activations are below one percent of them. Attention is counted over the full square,
as the eager kernels compute it.

Counts follow from the sizes of the layers and from how often each is applied, which its place in the model
says: Whisper's layers once per state of 20 ms, BEATs' once per patch, keys and values of the Q-Former once
per frame, the rest of it once per query and window, the LLM's once per position of the prompt and its head
once. A layer may have been narrowed, split in two or quantised: the rules only ask for its name and shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.data.tasks import task_kind
from audiolm_compress.planning.layers import Layer, weights_read
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.speech import FRAME_SAMPLES
from audiolm_compress.salmonn.structure import PARTS

CLIP_SECONDS = 10.0


@dataclass(frozen=True)
class Clip:
    """How long a clip is in every unit that a layer may count in.

    Attributes:
        speech_frames: Whisper's states.
        sound_tokens: BEATs' patches, 0 without BEATs.
        frames: what the connector reads.
        windows: of the Q-Former.
        audio_tokens: what the LLM reads of it.
        text_tokens: of the prompt around it.
        cached_tokens: those of them whose keys and values are kept from clip to clip.
    """

    speech_frames: int
    sound_tokens: int
    frames: int
    windows: int
    audio_tokens: int
    text_tokens: int
    cached_tokens: int = 0

    @property
    def prompt(self) -> int:
        """Positions that the LLM attends to for the first token."""
        return self.audio_tokens + self.text_tokens

    @property
    def prefill(self) -> int:
        """Positions that the LLM computes for the first token."""
        return self.prompt - self.cached_tokens

    @classmethod
    def of(cls, model: Salmonn, seconds: float = CLIP_SECONDS) -> Clip:
        """A clip of that length as ``model`` hears it, alone and under its recognition prompt."""
        samples = round(seconds * SAMPLE_RATE)
        speech = model.frames([samples])
        sound = 0
        if model.audio_encoder is not None:
            padded = samples if model.bucket_seconds is None else speech * FRAME_SAMPLES
            sound = model.audio_encoder.token_count(padded)
        tokens = model.token_count(samples)
        windows = tokens // model.connector.config.queries
        before, after = text_tokens(model)
        cached = before if model.prompt_cache else 0
        return cls(speech, sound, max(speech, sound), windows, tokens, before + after, cached)


def text_tokens(model: Salmonn) -> tuple[int, int]:
    """Tokens before the audio, with bos, and after it: of the recognition prompt, or the first there is."""
    known = [*model.prompts.test, *model.prompts.train]
    task = next((task for task in known if task_kind(task) == "asr"), known[0] if known else None)
    texts = model.prompts.around(task) if task is not None else model.prompts.around("", "Transcribe.")
    before, after = (len(model.tokenizer(text, add_special_tokens=False).input_ids) for text in texts)
    return before + (model.tokenizer.bos_token_id is not None), after


def uses(layer: Layer, clip: Clip, model: Salmonn) -> int:
    """How many rows a layer's product has until the first token."""
    name = layer.plain_name
    if layer.part == "speech_encoder":
        return 2 * clip.speech_frames if ".conv1" in name else clip.speech_frames
    if layer.part == "audio_encoder":
        # The gates look at every head on its own; the classifier of fine-tuned checkpoints is not run.
        if name.endswith(".grep_linear"):
            config = model.audio_encoder.config if model.audio_encoder is not None else None
            return clip.sound_tokens * (config.encoder_attention_heads if config else 1)
        return 0 if ".predictor" in name else clip.sound_tokens
    if layer.part == "connector":
        queries = model.connector.config.queries
        if ".cross_attention.key" in name or ".cross_attention.value" in name:
            return clip.frames
        if ".layers.0.self_attention" in name:
            return queries  # the same for all windows
        return clip.windows * queries
    return 1 if layer.reads or "lm_head" in name else clip.prefill


def lone_row(name: str, model: Salmonn) -> bool:
    """Whether a layer's product never has more than one row a run, however many clips there are and how long.

    So it is with the Q-Former's first self-attention, which mixes the queries before they look at the audio,
    if there is one query, and with the classifier that is not run.
    """
    if name.startswith("audio_encoder."):
        return ".predictor" in name
    first = name.startswith("connector.") and ".layers.0.self_attention" in name
    return first and model.connector.config.queries == 1


def layer_flops(layer: Layer, clip: Clip, model: Salmonn) -> int:
    """FLOPs of a layer's own product until the first token."""
    if layer.kind not in ("linear", "convolution"):
        return 0
    return 2 * math.prod(layer.shape) * uses(layer, clip, model)


def attention_flops(layers: Sequence[Layer], clip: Clip, model: Salmonn) -> dict[str, int]:
    """FLOPs of queries with keys and of weights with values, by part."""
    pairs = {
        "speech_encoder": clip.speech_frames**2,
        "audio_encoder": clip.sound_tokens**2,
        "llm": clip.prefill * clip.prompt,
    }
    config = model.connector.config
    window = config.window or clip.frames
    work = dict.fromkeys(PARTS, 0)
    for name, width in attention_widths(layers).items():
        part = name.partition(".")[0]
        if part == "connector":
            cross = ".cross_attention" in name
            count = 1 if ".layers.0.self_attention" in name else clip.windows
            work[part] += 4 * width * config.queries * count * (window if cross else config.queries)
        else:
            work[part] += 4 * width * pairs[part]
    return work


def attention_widths(layers: Sequence[Layer]) -> dict[str, int]:
    """Attention module -> heads times head width, which is what its queries come out as."""
    widths: dict[str, int] = {}
    for layer in layers:
        if layer.kind == "linear" and not layer.is_lora:
            for query in (".q_proj", ".query"):
                owner, found, rest = layer.plain_name.partition(query)
                if found and (not rest or rest.startswith(".")):
                    # Of a query that was split into two factors, the later one gives the width.
                    widths[owner] = layer.shape[0]
    return widths


def cache_bytes_per_token(layers: Sequence[Layer]) -> int:
    """Bytes that the LLM's cache takes for one position: keys and values of every layer."""
    rows: dict[str, int] = {}
    for layer in layers:
        if layer.part == "llm" and layer.kind == "linear" and not layer.is_lora:
            for name in (".k_proj", ".v_proj"):
                owner, found, _ = layer.plain_name.partition(name)
                if found:
                    rows[owner + name] = layer.shape[0] * layer.floating.itemsize
    return sum(rows.values())


def read_per_token(layers: Sequence[Layer], clip: Clip) -> int:
    """Bytes that one further token reads: the LLM's weights, one row of its embedding, and the cache."""
    total = 0
    for layer, owner in weights_read(list(layers)):
        if layer.part == "llm":
            total += owner.bytes // owner.shape[0] if layer.kind == "embedding" else owner.bytes
    return total + cache_bytes_per_token(layers) * clip.prompt


def flops_per_token(layers: Sequence[Layer], clip: Clip) -> dict[torch.dtype, int]:
    """FLOPs of one further token, by the type they are computed in: a single position is never rounded."""
    work: dict[torch.dtype, int] = {}
    for layer in layers:
        if layer.part == "llm" and layer.kind == "linear":
            work[layer.floating] = work.get(layer.floating, 0) + 2 * math.prod(layer.shape)
    width = sum(w for name, w in attention_widths(layers).items() if name.startswith("llm."))
    kind = max(work, key=lambda dtype: work[dtype])
    work[kind] += 4 * width * clip.prompt
    return work


@dataclass(frozen=True)
class PartCost:
    """What a part of the model is and does.

    Attributes:
        parameters: weights and biases, tied ones once.
        bytes: as stored.
        flops: until the first token of a 10 s clip, by the type they are computed in.
    """

    parameters: int
    bytes: int
    flops: Mapping[torch.dtype, int]


def part_costs(layers: Sequence[Layer], clip: Clip, model: Salmonn) -> dict[str, PartCost]:
    """The costs of every part that the model has."""
    attention = attention_flops(layers, clip, model)
    costs = {}
    for part in model.parts():
        own = [layer for layer in layers if layer.part == part]
        work: dict[torch.dtype, int] = {}
        results: dict[torch.dtype, int] = {}
        for layer in own:
            flops = layer_flops(layer, clip, model)
            work[layer.compute] = work.get(layer.compute, 0) + flops
            results[layer.floating] = results.get(layer.floating, 0) + flops
        # The products of attention are computed in the type of what most layers give.
        floating = max(results, key=lambda dtype: results[dtype])
        work[floating] = work.get(floating, 0) + attention[part]
        costs[part] = PartCost(
            sum(layer.parameters for layer in own),
            sum(layer.bytes for layer in own),
            {dtype: flops for dtype, flops in work.items() if flops},
        )
    return costs


def first_reads(layers: Sequence[Layer]) -> dict[str, int]:
    """Bytes of weights that are read until the first token, by part; of an embedding only a few rows are."""
    reads = dict.fromkeys(PARTS, 0)
    for layer, owner in weights_read(list(layers)):
        if layer.kind != "embedding":
            reads[layer.part] += owner.bytes
    return reads
