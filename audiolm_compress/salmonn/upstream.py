"""Reads the upstream layout: a YAML config that names a Whisper, a BEATs ``.pt``, an LLM and a ``.pth``.

The keys and their defaults are those of bytedance/SALMONN and of its hackathon derivatives
(nota-github/audiolm-trainer); keys that do not concern the model's structure are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.errors import BaselineError
from audiolm_compress.salmonn.beats import load_beats
from audiolm_compress.salmonn.checkpoint import place, read_checkpoint
from audiolm_compress.salmonn.connector import Connector
from audiolm_compress.salmonn.guarded import NO_CODE, check_folder, check_source, readable
from audiolm_compress.salmonn.lora import add_lora
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.quiet import quiet_transformers
from audiolm_compress.salmonn.upstream_config import (
    checkpoint_names,
    connector_config,
    llm_source,
    lora_arguments,
    model_section,
    model_source,
    read_config,
    text_arguments,
)

PAD_TOKEN = "[PAD]"


def load_upstream(
    path: Path,
    dtype: torch.dtype | None = None,
    allow_missing: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Salmonn:
    """Build a model from an upstream config.

    Args:
        path: the YAML file. Relative paths in it are relative to it; what is no local path is a hub id.
        dtype: of the LLM; by default that of its checkpoint. BEATs has that of its file, Whisper and the
            connector are float32.
        allow_missing: leave tensors that the ``.pth`` does not have as they were initialised.
        config: what to go by in place of the file's content.

    Returns:
        The model in evaluation mode, its LoRA unmerged, no parameter requiring a gradient.

    Raises:
        BaselineError: a file is missing or unreadable, or a tensor has no place or no value.
    """
    with readable(f"baseline {path}"):
        return _load(path, dtype, allow_missing, read_config(path) if config is None else config)


def _load(path: Path, dtype: torch.dtype | None, allow_missing: bool, config: Mapping[str, Any]) -> Salmonn:
    section = model_section(config, path)
    root = path.parent
    trained = _trained_tensors(section, root)

    whisper = model_source(section, "whisper_path", root, path)
    speech_encoder = load_whisper(whisper, section.get("token"))
    with readable(f"feature extractor of Whisper {whisper}"):
        feature_extractor = WhisperFeatureExtractor.from_pretrained(whisper, token=section.get("token"))
    beats_path = section.get("beats_path")
    audio_encoder = load_beats(root / beats_path) if beats_path else None

    source = llm_source(section, root, path)
    with readable(f"tokenizer of LLM {source}"):
        check_folder(source)
        tokenizer = AutoTokenizer.from_pretrained(source, token=section.get("token"), **NO_CODE)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    llm: Any = load_llm(source, len(tokenizer), section.get("token"), dtype)
    if section.get("lora", True):
        llm = add_lora(llm, **lora_arguments(section, trained))

    connector = Connector(
        connector_config(
            section,
            {name: tuple(tensor.shape) for name, tensor in trained.items()},
            speech_width=speech_encoder.config.d_model,
            audio_width=audio_encoder.config.encoder_embed_dim if audio_encoder else 0,
            llm_width=llm.get_input_embeddings().weight.shape[1],
        )
    )
    model = Salmonn(
        speech_encoder,
        audio_encoder,
        connector,
        llm,
        tokenizer,
        feature_extractor,
        **text_arguments(config, section, path),
    )
    required = (
        []
        if allow_missing
        else [name for name in model.state_dict() if name.startswith("connector.") or ".lora_" in name]
    )
    place(model, trained, required, str(section.get("ckpt") or path))
    return model.eval().requires_grad_(False)


def load_whisper(source: str, token: str | None = None) -> WhisperEncoder:
    """Whisper's encoder in float32, from a local directory or a hub id.

    Accepts the layouts of ``WhisperForConditionalGeneration`` (``model.encoder.``), ``WhisperModel``
    (``encoder.``) and of the encoder alone; the decoder's tensors are not read.

    Raises:
        BaselineError: an encoder tensor is missing, unknown or wrongly shaped.
    """
    check_folder(source)
    with readable(f"Whisper {source}"), quiet_transformers():
        sizes = WhisperConfig.from_pretrained(source, token=token)
        check_source(source, sizes, lambda: WhisperEncoder._from_config(sizes))
        encoder, info = WhisperEncoder.from_pretrained(
            source,
            key_mapping={r"^(model\.)?encoder\.": ""},
            dtype=torch.float32,
            token=token,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    unknown = [key for key in info["unexpected_keys"] if not re.match(r"(model\.)?decoder\.|proj_out\.", key)]
    _check_loaded(f"Whisper {source}", info, unknown)
    return encoder


def load_llm(
    source: str, vocabulary: int, token: str | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A causal LM with its embeddings resized to ``vocabulary`` rows.

    New rows are the mean of the old ones: upstream draws them around it with a negligible spread, and
    does not store them where input and output embeddings are not tied.

    Raises:
        BaselineError: the directory cannot be read or does not hold all tensors of its architecture.
    """
    check_folder(source)
    with readable(f"LLM {source}"), quiet_transformers():
        config = AutoConfig.from_pretrained(source, token=token, **NO_CODE)
        check_source(source, config, lambda: AutoModelForCausalLM.from_config(config, **NO_CODE))
        llm, info = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype or "auto",
            attn_implementation=attention_of(config),
            token=token,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **NO_CODE,
        )
    _check_loaded(f"LLM {source}", info, sorted(info["unexpected_keys"]))
    # Older Gemma-2 checkpoints name a cache class that transformers 5 no longer has.
    llm.generation_config.cache_implementation = None
    if vocabulary > llm.get_input_embeddings().weight.shape[0]:
        _grow_vocabulary(llm, vocabulary)
    return llm


def attention_of(config: PreTrainedConfig) -> str:
    """The attention path for an LLM: only the eager one applies the soft caps of Gemma-2's definition."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) is not None else "sdpa"


def _grow_vocabulary(llm: PreTrainedModel, size: int) -> None:
    old = llm.get_input_embeddings().weight.shape[0]
    llm.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for module in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            module.weight[old:] = module.weight[:old].float().mean(0).to(module.weight.dtype)


def _check_loaded(what: str, info: Mapping[str, Any], unknown: list[str]) -> None:
    problems = [f"missing {key}" for key in sorted(info["missing_keys"])]
    problems += [f"unknown {key}" for key in unknown]
    problems += [
        f"{key} has shape {list(found)}, expected {list(own)}" for key, found, own in info["mismatched_keys"]
    ]
    if problems:
        raise BaselineError(f"{what}: the tensors do not fit its config:\n  " + "\n  ".join(problems))


def _trained_tensors(section: Mapping[str, Any], root: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in checkpoint_names(section):
        tensors |= read_checkpoint(root / name)
    return tensors
