"""Our folder of a model: everything it needs to run, nothing that can execute.

    config.json                 sizes of the parts, prompts, decode settings, replaced modules
    model.safetensors           all weights, packed ones in their packed form
    tokenizer.json, ...         the LLM's tokenizer
    preprocessor_config.json    Whisper's feature extractor

A folder loads without the checkpoint it was made from.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from audiolm_compress.errors import BaselineError
from audiolm_compress.folders import whole_folder
from audiolm_compress.quantization import module_from_spec, prepare_modules
from audiolm_compress.salmonn.beats import Beats
from audiolm_compress.salmonn.beats_layers import BeatsConfig
from audiolm_compress.salmonn.connector import Connector, ConnectorConfig
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.fit import check_fit
from audiolm_compress.salmonn.guarded import NO_CODE, check_folder, readable
from audiolm_compress.salmonn.lora import add_lora, describe_lora
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.prompts import Prompts
from audiolm_compress.salmonn.quiet import quiet_transformers
from audiolm_compress.salmonn.upstream import attention_of
from audiolm_compress.salmonn.weight_files import read_pieces
from audiolm_compress.salmonn.widths import describe_widths, llm_config, narrow_speech_heads
from audiolm_compress.untrusted import read_json

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FORMAT = "audiolm_compress model 1"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def is_model_folder(path: Path) -> bool:
    """Whether ``path`` is a folder that :func:`save` wrote."""
    try:
        return str(read_json(path / CONFIG).get("format")) == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def save(model: Salmonn, folder: str | Path, *, storage: Mapping[str, torch.dtype] | None = None) -> Path:
    """Write ``model`` as a folder, whole or not at all.

    Args:
        model: any model, with packed modules or without.
        folder: new, empty or a model folder that is then replaced.
        storage: part -> dtype to store its floating weights in. Loading brings back the dtypes that the
            model has now.

    Raises:
        AudioLMError: ``folder`` holds something else.
    """
    folder = Path(folder)
    with whole_folder(folder, is_model_folder) as work:
        write(model, work, storage=storage)
    return folder


def write(model: Salmonn, folder: Path, *, storage: Mapping[str, torch.dtype] | None = None) -> None:
    """Write the files of ``model`` into an existing folder.

    Raises:
        BaselineError: its LLM needs code of its checkpoint, which the folder would not hold.
    """
    if type(model.causal_lm).__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
        raise BaselineError(
            f"the LLM's class {type(model.causal_lm).__name__} is code of its checkpoint, and a saved folder "
            "holds none; such a model can answer and be measured, but to be saved it needs a class of "
            "transformers"
        )
    storage = storage or {}
    tensors, aliases = _unique(model.state_dict())
    for name, tensor in tensors.items():
        dtype = storage.get(name.partition(".")[0])
        if dtype is not None and tensor.is_floating_point():
            tensors[name] = tensor.to(dtype)
    config = describe(model) | {
        "aliases": aliases,
        "dtypes": {name: _uniform_dtype(model, name) for name in storage},
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model.tokenizer.save_pretrained(folder)
    model.feature_extractor.save_pretrained(folder)
    # Last, so that a folder with a config is a complete one.
    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: str | Path) -> Salmonn:
    """Read a folder that :func:`save` wrote; the model is in evaluation mode, on the CPU.

    Raises:
        BaselineError: the folder is not one of ours, or its tensors do not fit its config.
    """
    folder = Path(folder)
    config = checked_config(folder)
    with readable(f"model folder {folder}", "is damaged"):
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
            model = build(config, tokenizer, WhisperFeatureExtractor.from_pretrained(folder))
        aliases = config["aliases"]
        dtypes = {name: DTYPES[dtype] for name, dtype in config["dtypes"].items()}
        _check_header(folder / WEIGHTS, model, aliases)
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = list(file.keys())
        tensors: dict[str, Tensor] = {}
        for piece in read_pieces(folder / WEIGHTS, names):
            tensors |= piece
        _fill(model, tensors, aliases, folder)
        tensors.clear()  # packed layers are rearranged below: what they came from must go layer by layer
        for name, dtype in dtypes.items():
            model.cast(dtype, (name,))
        unprepared = prepare_modules(model)
    for warning in unprepared:
        warnings.warn(f"{folder}: {warning}", stacklevel=2)
    return model.eval().requires_grad_(False)


def checked_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder that :func:`save` wrote, after a look over the folder.

    Raises:
        BaselineError: the folder is not one of ours, or wants more than to be read.
    """
    if (folder / CONFIG).exists():
        check_folder(folder)  # says what is wrong with a config that cannot be read
    if not is_model_folder(folder):
        raise BaselineError(
            f'{folder} is no model folder: no {CONFIG} with "format": "{FORMAT}" in it; name a folder that '
            f"`run` or `train` wrote"
        )
    config: dict[str, Any] = read_json(folder / CONFIG)
    return config


def describe(model: Salmonn) -> dict[str, Any]:
    """The ``config.json`` of a model: everything but tensors, tokenizer and feature extractor."""
    return {
        "format": FORMAT,
        "speech_encoder": model.speech_encoder.config.to_diff_dict(),
        "audio_encoder": None if model.audio_encoder is None else model.audio_encoder.config.to_dict(),
        "connector": model.connector.config.to_dict(),
        "llm": model.causal_lm.config.to_diff_dict(),
        "generation": model.causal_lm.generation_config.to_diff_dict(),
        "lora": describe_lora(model.llm),
        "prompts": model.prompts.to_dict(),
        "decode": {task: settings.model_dump() for task, settings in model.decode.items()},
        "end_symbol": model.end_symbol,
        "max_text_tokens": model.max_text_tokens,
        "bucket_seconds": model.bucket_seconds,
        "audio_positions": model.audio_positions,
        "prompt_cache": model.prompt_cache,
        "widths": describe_widths(model.speech_encoder),
        "replaced": model.replaced,
    }


def build(
    config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, feature_extractor: WhisperFeatureExtractor
) -> Salmonn:
    """The model of a ``config.json``, empty: parameters on the meta device, computed buffers in place."""
    llm_sizes = llm_config(config["llm"])
    with init_empty_weights(include_buffers=False):
        speech_encoder = WhisperEncoder._from_config(WhisperConfig.from_dict(config["speech_encoder"]))
        audio_encoder = config["audio_encoder"] and Beats(BeatsConfig.from_dict(config["audio_encoder"]))
        connector = Connector(ConnectorConfig(**config["connector"]))
        llm: Any = AutoModelForCausalLM.from_config(
            llm_sizes, attn_implementation=attention_of(llm_sizes), **NO_CODE
        )
        if "speech_heads" in (widths := config.get("widths", {})):
            narrow_speech_heads(speech_encoder, widths["speech_heads"])
    llm.generation_config = GenerationConfig.from_dict(config["generation"])
    if config["lora"] is not None:
        llm = add_lora(llm, **config["lora"], empty=True)
    model = Salmonn(
        speech_encoder,
        audio_encoder,
        connector,
        llm,
        tokenizer,
        feature_extractor,
        Prompts.from_dict(config["prompts"]),
        {task: DecodeSettings(**settings) for task, settings in config["decode"].items()},
        end_symbol=config["end_symbol"],
        max_text_tokens=config["max_text_tokens"],
        bucket_seconds=config.get("bucket_seconds"),
        audio_positions=config.get("audio_positions"),
        prompt_cache=config.get("prompt_cache", False),
    )
    with torch.device("meta"):  # zeros would take as much memory as the weights that come in their place
        for name, spec in config["replaced"].items():
            model.replace_module(name, module_from_spec(spec))
    return model


def _check_header(path: Path, model: Salmonn, aliases: Mapping[str, str]) -> None:
    """Compare names, shapes and kinds of numbers before anything of their size is allocated."""
    expected = model.state_dict()
    found: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # no mapping
            entry = file.get_slice(name)
            found[name] = torch.empty(entry.get_shape(), device="meta")
            kind = entry.get_dtype()
            floating = kind.startswith(("F", "BF"))
            if name in expected and expected[name].is_floating_point() != floating:
                raise BaselineError(
                    f"{path}: {name} has dtype {kind}, expected one like {expected[name].dtype}"
                )
    found |= {alias: found[name] for alias, name in aliases.items() if name in found}
    check_fit(found, expected, path)


def _fill(model: Salmonn, tensors: dict[str, Tensor], aliases: Mapping[str, str], folder: Path) -> None:
    tensors |= {alias: tensors[name] for alias, name in aliases.items() if name in tensors}
    check_fit(tensors, model.state_dict(), folder)
    model.load_state_dict(tensors, assign=True)
    model.tie_head()


def _unique(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, contiguous; names of the same tensor point to the first of them.

    On the CPU they are the model's own, as memory for a second model may not be there. Copied is what a
    file cannot take as it lies: tensors that are not contiguous, or overlap with one before them.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().cpu().contiguous()
    end = 0
    for name in sorted(tensors, key=lambda name: tensors[name].data_ptr()):
        begin, size = tensors[name].data_ptr(), tensors[name].nbytes
        if size and begin < end:
            tensors[name] = tensors[name].clone()
        end = max(end, begin + size)
    return tensors, aliases


def _uniform_dtype(model: Salmonn, part: str) -> str:
    """The one floating dtype of a part's tensors."""
    dtypes = {
        tensor.dtype for tensor in getattr(model, part).state_dict().values() if tensor.is_floating_point()
    }
    if len(dtypes) != 1:
        raise BaselineError(
            f"{part} has weights of {sorted(map(str, dtypes))}; store it as it is or cast it first"
        )
    return str(dtypes.pop()).removeprefix("torch.")
