"""Answers of the LLM: by this package's runtime, or by transformers' own ``generate``. The ids are equal."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from audiolm_compress.runtime import fallback
from audiolm_compress.runtime.answers import Reading, Search
from audiolm_compress.runtime.architecture import why_not
from audiolm_compress.runtime.beam_search import beam_search
from audiolm_compress.runtime.engine import Continuation, engine_of
from audiolm_compress.runtime.greedy import greedy
from audiolm_compress.salmonn.decode import DecodeSettings

if TYPE_CHECKING:
    from audiolm_compress.salmonn.model import Salmonn
    from audiolm_compress.salmonn.wrapping import Inputs

_TOLD: WeakSet[nn.Module] = WeakSet()


def runtime_note(model: Salmonn) -> str:
    """How the LLM runs, if it does not run natively as it should; else ""."""
    uncached = "; the prompt cache is not used" if model.prompt_cache else ""
    if model.runtime.engine == "transformers":
        return f"the LLM runs in transformers' own forward and generate, as asked for{uncached}"
    reason = why_not(model.causal_lm)
    if reason:
        return f"the LLM runs in transformers' own forward and generate: {reason}{uncached}"
    if not model.runtime.compile:
        return ""
    return engine_of(model.causal_lm, compiled=True).note


def runs_natively(model: Salmonn) -> bool:
    """Whether this package's decoder runs the LLM; warns once of an LLM that it does not know."""
    if model.runtime.engine == "transformers":
        return False
    reason = why_not(model.causal_lm)
    if reason and model.causal_lm not in _TOLD:
        _TOLD.add(model.causal_lm)
        warnings.warn(f"the LLM runs in transformers' own forward and generate: {reason}", stacklevel=3)
    return not reason


def prefill(model: Salmonn, inputs: Inputs, room: int) -> tuple[Tensor, Reading]:
    """Logits of the next token [batch, vocabulary], and the prompts to read on."""
    if not runs_natively(model):
        return fallback.prefill(model.llm, inputs.embeds, inputs.mask, inputs.positions)
    return _native_prefill(model, inputs, room)


def _native_prefill(model: Salmonn, inputs: Inputs, room: int) -> tuple[Tensor, Continuation]:
    engine = engine_of(model.causal_lm, compiled=model.runtime.compile)
    prefixes = inputs.prefixes if model.prompt_cache else None
    return engine.prefill(inputs.embeds, inputs.mask, prefixes, room, inputs.positions)


def native_ids(model: Salmonn, inputs: Inputs, settings: DecodeSettings) -> Tensor:
    """Greedy or beam search over the native decoder: int64 [batch, new tokens]."""
    ends, pad = end_ids(model)
    search = Search(
        max_new_tokens=settings.max_new_tokens,
        ends=ends,
        pad=pad,
        min_length=settings.min_length,
        repetition_penalty=settings.repetition_penalty,
        num_beams=settings.num_beams,
        length_penalty=settings.length_penalty,
    )
    logits, reading = _native_prefill(model, inputs, settings.max_new_tokens)
    find = greedy if settings.num_beams == 1 else beam_search
    return find(logits, reading, search, inputs.mask)


@torch.inference_mode()
def transformers_ids(
    model: Salmonn, inputs: Inputs, settings: DecodeSettings, streamer: Any | None = None
) -> Tensor:
    """What transformers' ``generate`` gives: int64 [batch, new tokens].

    Args:
        model: the model.
        inputs: prompts.
        settings: of the search.
        streamer: gets the prompt and then every token as it comes (greedy search only).

    Sliding windows shorter than the prompt count columns here and positions in this package's runtime: where
    un-padded audio leaves a gap (``Salmonn.audio_positions``), ids can differ then.
    """
    ends, pad = end_ids(model)
    config = GenerationConfig(
        bos_token_id=model.causal_lm.generation_config.bos_token_id,
        eos_token_id=list(ends) or None,
        pad_token_id=pad,
        **settings.arguments(),
    )
    with warnings.catch_warnings(), _without_defaults(model.causal_lm):
        # That the prompt is not counted is what the setting promises.
        warnings.filterwarnings("ignore", message="Passing `repetition_penalty` with `inputs_embeds`")
        positions = {} if inputs.positions is None else {"position_ids": inputs.positions}
        return model.llm.generate(
            inputs_embeds=inputs.embeds,
            attention_mask=inputs.mask,
            **positions,
            generation_config=config,
            streamer=streamer,
        )


def end_ids(model: Salmonn) -> tuple[tuple[int, ...], int]:
    """The ids that end an answer, and the one that fills up a batch's shorter answers."""
    stop = model.causal_lm.generation_config.eos_token_id
    ends = () if stop is None else tuple(stop) if isinstance(stop, list) else (stop,)
    return ends, ends[0] if ends else model.tokenizer.pad_token_id


@contextmanager
def _without_defaults(llm: PreTrainedModel) -> Iterator[None]:
    """Inside, ``llm`` has no generation settings of its own, with which ``generate`` would fill up gaps."""
    own = llm.generation_config
    llm.generation_config = GenerationConfig()
    try:
        yield
    finally:
        llm.generation_config = own
