"""Reads the upstream layout: a YAML config that names a Whisper, a BEATs ``.pt``, an LLM and a ``.pth``.

The keys and their defaults are those of bytedance/SALMONN and of its hackathon derivatives
(nota-github/audiolm-trainer); keys that do not concern the model's structure are left alone.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.errors import BaselineError, DataError
from audiolm_compress.salmonn.beats import load_beats
from audiolm_compress.salmonn.checkpoint import place, read_checkpoint, rename
from audiolm_compress.salmonn.connector import Connector, ConnectorConfig, window_frames
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.lora import add_lora
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.prompts import Prompts
from audiolm_compress.salmonn.quiet import quiet_transformers

HEAD_WIDTH = (
    64  # of every Q-Former: the checkpoint does not tell the number of heads, bert-base has 64 a head
)
PAD_TOKEN = "[PAD]"


def load_upstream(path: Path, dtype: torch.dtype | None = None, allow_missing: bool = False) -> Salmonn:
    """Build a model from an upstream config.

    Args:
        path: the YAML file. Relative paths in it are relative to it; what is no local path is a hub id.
        dtype: of all parts; by default the encoders and the connector are float32 and the LLM has the
            dtype of its checkpoint.
        allow_missing: leave tensors that the ``.pth`` does not have as they were initialised.

    Returns:
        The model in evaluation mode, its LoRA unmerged, no parameter requiring a gradient.

    Raises:
        BaselineError: a file is missing or unreadable, or a tensor has no place or no value.
    """
    config = _read_yaml(path)
    section = _section(config, "model", path)
    root = path.parent
    trained = _trained_tensors(section, root)
    if not section.get("use_speech_Qformer", True):
        raise BaselineError(
            f"{path}: use_speech_Qformer: false has no implementation upstream either; set it to true"
        )

    whisper = _existing(section, "whisper_path", root, path)
    speech_encoder = load_whisper(whisper, section.get("token"))
    feature_extractor = WhisperFeatureExtractor.from_pretrained(whisper, token=section.get("token"))
    beats_path = section.get("beats_path")
    audio_encoder = load_beats(root / beats_path) if beats_path else None

    llm_key = "gemma_path" if "gemma_path" in section else "llama_path"
    llm_source = _existing(section, llm_key, root, path)
    tokenizer = AutoTokenizer.from_pretrained(llm_source, token=section.get("token"))
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    llm: Any = load_llm(llm_source, len(tokenizer), section.get("token"), dtype)
    if section.get("lora", True):
        llm = _with_lora(llm, section, trained)

    connector = Connector(
        _connector_config(
            section,
            trained,
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
        _prompts(section, root, path),
        {"default": _decode(config, section, path)},
        end_symbol=section.get("end_sym", "</s>"),
        max_text_tokens=section.get("max_txt_len", 128),
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
    try:
        with quiet_transformers():
            encoder, info = WhisperEncoder.from_pretrained(
                source,
                key_mapping={r"^(model\.)?encoder\.": ""},
                dtype=torch.float32,
                token=token,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError) as error:
        raise BaselineError(f"Whisper {source} cannot be loaded: {error}") from error
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
    try:
        config = AutoConfig.from_pretrained(source, token=token)
        with quiet_transformers():
            llm, info = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype or "auto",
                attn_implementation=attention_of(config),
                token=token,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError) as error:
        raise BaselineError(f"LLM {source} cannot be loaded: {error}") from error
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
    # The projection may come in a file of its own; the checkpoint has the last word.
    names = [value for key, value in section.items() if re.fullmatch(r"speech_(gemma|llama)_proj_model", key)]
    for name in [*names, section.get("ckpt")]:
        if name:
            tensors |= read_checkpoint(root / name)
    return tensors


def _with_lora(llm: PreTrainedModel, section: Mapping[str, Any], trained: Mapping[str, Tensor]) -> PeftModel:
    adapted = {name.split(".lora_A.")[0].rpartition(".")[2] for name in trained if ".lora_A." in name}
    return add_lora(
        llm,
        r=section.get("lora_rank", 8),
        lora_alpha=section.get("lora_alpha", 32),
        lora_dropout=section.get("lora_dropout", 0.1),
        # Upstream leaves the choice to peft, whose choice for Llama and Gemma is these two.
        target_modules=sorted(adapted) or ["q_proj", "v_proj"],
    )


def _connector_config(
    section: Mapping[str, Any],
    trained: Mapping[str, Tensor],
    speech_width: int,
    audio_width: int,
    llm_width: int,
) -> ConnectorConfig:
    """Sizes that the config does not name are read from the trained tensors; else they are bert-base's."""
    shapes = {rename(name): tuple(tensor.shape) for name, tensor in trained.items()}
    hidden = shapes.get("connector.qformer.query_tokens", (1, 1, 768))[-1]
    indices = [
        int(match[1]) for name in shapes if (match := re.match(r"connector\.qformer\.layers\.(\d+)\.", name))
    ]
    whole = not section.get("window_level_Qformer", True)
    return ConnectorConfig(
        speech_width=speech_width,
        audio_width=audio_width,
        llm_width=llm_width,
        hidden=hidden,
        heads=max(1, hidden // HEAD_WIDTH),
        layers=max(indices, default=1) + 1,
        intermediate=shapes.get("connector.qformer.layers.0.intermediate.weight", (3072, hidden))[0],
        queries=section.get("num_speech_query_token", 1),
        window=0 if whole else window_frames(section.get("second_per_window", 0.333333)),
        stride=0 if whole else window_frames(section.get("second_stride", 0.333333)),
    )


def _prompts(section: Mapping[str, Any], root: Path, path: Path) -> Prompts:
    train: dict[str, tuple[str, ...]] = {}
    if section.get("prompt_path"):
        for task, many in _read_json(root / section["prompt_path"]).items():
            # Upstream drops training prompts that have no place for the audio.
            kept = tuple(prompt for prompt in many if "<SpeechHere>" in prompt)
            if len(kept) < len(many):
                warnings.warn(
                    f"{task}: {len(many) - len(kept)} training prompts without <SpeechHere> are not used",
                    stacklevel=2,
                )
            train[task] = kept
    test = _read_json(root / section["test_prompt_path"]) if section.get("test_prompt_path") else {}
    try:
        return Prompts(section.get("prompt_template") or "{}", test, train)
    except DataError as error:
        raise BaselineError(f"{path}: {error}") from error


def _decode(config: Mapping[str, Any], section: Mapping[str, Any], path: Path) -> DecodeSettings:
    known = {
        key: value
        for key, value in (config.get("generate") or {}).items()
        if key in DecodeSettings.model_fields
    }
    try:
        return DecodeSettings.model_validate({"end_sym": section.get("end_sym", "</s>")} | known)
    except ValueError as error:
        raise BaselineError(f"{path}: section generate: {error}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BaselineError(f"baseline config {path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise BaselineError(f"baseline config {path}: expected a mapping with a section 'model'")
    return config


def _section(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = config.get(name)
    if not isinstance(section, dict):
        raise BaselineError(
            f"baseline config {path}: section {name!r} is missing; found {', '.join(map(str, config))}"
        )
    return section


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaselineError(f"prompt file {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BaselineError(f"prompt file {path}: expected an object that maps tasks to prompts")
    return content


def _existing(section: Mapping[str, Any], key: str, root: Path, path: Path) -> str:
    """The directory or hub id under ``key``; a path that does not exist is no hub id."""
    value = section.get(key)
    if not value:
        raise BaselineError(f"{path}: model.{key} is missing")
    local = root / value
    if local.exists():
        return str(local)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", value):
        return str(value)
    raise BaselineError(
        f"{path}: model.{key}: {local} does not exist, and {value!r} is no hub id (owner/name)"
    )
