"""Reads the upstream layout: a YAML config that names a Whisper, a BEATs ``.pt``, an LLM and a ``.pth``.

The keys and their defaults are those of bytedance/SALMONN and of its hackathon derivatives
(nota-github/audiolm-trainer); keys that do not concern the model's structure are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
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
from audiolm_compress.salmonn.guarded import check_folder, check_source, code_if_asked, readable
from audiolm_compress.salmonn.hub import from_hub
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
from audiolm_compress.salmonn.weight_files import (
    WEIGHT_PATTERNS,
    Stored,
    fill,
    stored_tensors,
    weight_files,
)

PAD_TOKEN = "[PAD]"
_GENERATION = "generation_config.json"
_ROWS = 4096


def load_upstream(
    path: Path,
    dtype: torch.dtype | None = None,
    allow_missing: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Salmonn:
    """Build a model from an upstream config.

    Args:
        path: the YAML file. Relative paths in it are relative to it; what is no local path is a hub id.
        dtype: of the LLM and Whisper; by default the LLM's is that of its checkpoint and Whisper's float32.
            BEATs has that of its file, the connector is float32.
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
    speech_encoder = load_whisper(whisper, section.get("token"), dtype or torch.float32)
    with readable(f"feature extractor of Whisper {whisper}"):
        feature_extractor = WhisperFeatureExtractor.from_pretrained(whisper, token=section.get("token"))
    beats_path = section.get("beats_path")
    audio_encoder = load_beats(root / beats_path) if beats_path else None

    source = llm_source(section, root, path)
    with readable(f"tokenizer of LLM {source}"):
        check_folder(source, may_have_code=True)
        tokenizer = AutoTokenizer.from_pretrained(source, token=section.get("token"), **code_if_asked())
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


def load_whisper(source: str, token: str | None = None, dtype: torch.dtype = torch.float32) -> WhisperEncoder:
    """Whisper's encoder, from a local directory or a hub id.

    Accepts the layouts of ``WhisperForConditionalGeneration`` (``model.encoder.``), ``WhisperModel``
    (``encoder.``) and of the encoder alone; the decoder's tensors are not read.

    Raises:
        BaselineError: an encoder tensor is missing, unknown or wrongly shaped.
    """
    folder = _folder_of(source, token)
    with readable(f"Whisper {source}"), quiet_transformers():
        sizes = WhisperConfig.from_pretrained(folder)
        check_source(str(folder), sizes, lambda: WhisperEncoder._from_config(sizes))
        with init_empty_weights(include_buffers=False):
            encoder = WhisperEncoder._from_config(sizes, dtype=dtype)
        heard = {
            re.sub(r"^(model\.)?encoder\.", "", entry.name): entry
            for entry in stored_tensors(weight_files(folder))
            if not re.match(r"(model\.)?decoder\.|proj_out\.", entry.name)
        }
        fill(encoder, heard, f"Whisper {source}")
    return encoder.eval()


def load_llm(
    source: str, vocabulary: int, token: str | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A causal LM with its embeddings resized to ``vocabulary`` rows, its weights read part by part.

    New rows are the mean of the old ones: upstream draws them around it with a negligible spread, and
    does not store them where input and output embeddings are not tied.

    Args:
        source: a local directory or a hub id.
        vocabulary: rows that the embeddings have at least.
        token: opens a hub's account.
        dtype: of the weights; by default what the config says, or the first file if it says nothing.

    Raises:
        BaselineError: the directory cannot be read, holds packed weights, or does not hold all tensors of its
            architecture.
    """
    folder = _folder_of(source, token, may_have_code=True)
    code = code_if_asked()
    with readable(f"LLM {source}"), quiet_transformers():
        config = AutoConfig.from_pretrained(folder, **code)
        if getattr(config, "quantization_config", None) is not None:
            raise BaselineError(
                f"LLM {source}: quantised already (quantization_config in config.json); passes start from "
                "plain weights: take the checkpoint that it was made from"
            )
        empty = partial(AutoModelForCausalLM.from_config, config, **code)
        check_source(str(folder), config, empty, may_have_code=True)
        stored = stored_tensors(weight_files(folder))
        dtype = dtype or config.dtype or next(entry.dtype for entry in stored if entry.dtype)
        with init_empty_weights(include_buffers=False):
            llm: Any = empty(dtype=dtype, attn_implementation=attention_of(config))
        llm.tie_weights()
        fill(llm, _named_as_in(llm, stored), f"LLM {source}")
        llm.tie_weights()
        if (folder / _GENERATION).is_file():
            llm.generation_config = GenerationConfig.from_pretrained(folder)
    # Older Gemma-2 checkpoints name a cache class that transformers 5 no longer has.
    llm.generation_config.cache_implementation = None
    if vocabulary > llm.get_input_embeddings().weight.shape[0]:
        _grow_vocabulary(llm, vocabulary)
    return llm.eval()


def attention_of(config: PreTrainedConfig) -> str:
    """The attention path for an LLM: only the eager one applies the soft caps of Gemma-2's definition."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) is not None else "sdpa"


def _folder_of(source: str, token: str | None, *, may_have_code: bool = False) -> Path:
    """The directory, or where the hub's is kept, looked over."""
    runs_code = may_have_code and code_if_asked()["trust_remote_code"]
    wanted = ("*.json", *WEIGHT_PATTERNS, *(("*.py",) if runs_code else ()))
    folder = Path(source) if Path(source).is_dir() else from_hub(source, wanted, token)
    check_folder(folder, may_have_code=may_have_code)
    return folder


def _named_as_in(llm: PreTrainedModel, stored: Sequence[Stored]) -> dict[str, Stored]:
    """Tensors by the names of ``llm``: those of a body saved alone get its prefix."""
    own = llm.state_dict()
    named = {}
    for entry in stored:
        prefixed = f"{llm.base_model_prefix}.{entry.name}"
        # releases before 4.31 stored these computed buffers in every layer
        if not entry.name.endswith(".rotary_emb.inv_freq"):
            named[entry.name if entry.name in own or prefixed not in own else prefixed] = entry
    return named


def _grow_vocabulary(llm: PreTrainedModel, size: int) -> None:
    old = llm.get_input_embeddings().weight.shape[0]
    llm.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for module in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            # in blocks: a 32-bit copy of the whole would be the largest tensor of all
            sums = [rows.float().sum(0) for rows in module.weight[:old].split(_ROWS)]
            module.weight[old:] = (torch.stack(sums).sum(0) / old).to(module.weight.dtype)


def _trained_tensors(section: Mapping[str, Any], root: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in checkpoint_names(section):
        tensors |= read_checkpoint(root / name)
    return tensors
