"""Checkpoints laid out as the published ones are, with random weights: names, files and dtypes, no quality.

Sizes are the caller's: tests write a few megabytes, ``loading.py`` gigabytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from published_shapes import Shapes, beats_shapes, llm_shapes, trained_shapes, whisper_shapes
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

_PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "chunk_length": 30,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480_000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16_000,
}
_SPREAD = 0.02
_BLOCK = 2**20


@dataclass(frozen=True)
class Files:
    """How the weights of a folder are spread over files.

    Attributes:
        kind: ``safetensors``, or ``bin`` for what ``torch.save`` writes.
        dtype: of the weights.
        shard_bytes: most bytes in a file; None for one file without an index.
    """

    kind: Literal["safetensors", "bin"] = "safetensors"
    dtype: torch.dtype = torch.float16
    shard_bytes: int | None = None


def write_llm(folder: Path, config: Mapping[str, Any], files: Files) -> None:
    """Write config and weights of an LLM; ``bin`` files of Llama have the buffers of older releases, too."""
    folder.mkdir(parents=True, exist_ok=True)
    published = dict(config)
    del published["dtype"]
    # as releases before transformers 5 wrote configs
    published["torch_dtype"] = str(files.dtype).removeprefix("torch.")
    if rope := published.pop("rope_parameters", None):
        published |= {"rope_theta": rope["rope_theta"], "rope_scaling": {**rope}}
        del published["rope_scaling"]["rope_theta"]
    _write_json(folder / "config.json", published)
    shapes = llm_shapes(config)
    if files.kind == "bin" and config["model_type"] == "llama":
        half = config["hidden_size"] // config["num_attention_heads"] // 2
        for layer in range(config["num_hidden_layers"]):
            shapes[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = (half,)
    _write_weights(folder, shapes, files)


def write_tokenizer(folder: Path, size: int) -> None:
    """Write a tokenizer of ``size`` tokens, as many as the LLM has: a pad token that is added is one more."""
    tokens = {name: index for index, name in enumerate(("<unk>", "<s>", "</s>"))}
    tokens |= {f"word{index}": index for index in range(len(tokens), size)}
    words = Tokenizer(WordLevel(tokens, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def write_whisper(folder: Path, config: Mapping[str, Any], files: Files) -> None:
    """Write a Whisper with its feature extractor."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", {"architectures": ["WhisperForConditionalGeneration"], **config})
    _write_json(
        folder / "preprocessor_config.json", {**_PREPROCESSOR, "feature_size": config["num_mel_bins"]}
    )
    _write_weights(folder, whisper_shapes(config), files)


def write_beats(file: Path, cfg: Mapping[str, Any]) -> None:
    """Write a BEATs ``.pt``: float32, the layers' tables of relative positions all the same."""
    made = Weights()
    tensors = {name: made(name, shape, torch.float32) for name, shape in beats_shapes(cfg).items()}
    torch.save({"cfg": dict(cfg), "model": tensors}, file)


def write_trained(file: Path, beats: Path, shapes: Shapes) -> None:
    """Write an upstream ``.pth``: float32, a tied head in float16, and the entries that are not read back.

    Args:
        file: to write.
        beats: the ``.pt`` whose table of relative positions the second names stand for.
        shapes: see ``trained_shapes``.
    """
    made = Weights()
    tensors: dict[str, Tensor] = {}
    table = torch.load(beats, weights_only=True, mmap=True)["model"]
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            tensors[name] = torch.arange(math.prod(shape)).view(shape)
        elif name.startswith("beats."):
            tensors[name] = table[name.removeprefix("beats.")].clone()
        else:
            dtype = torch.float16 if name.endswith("lm_head.weight") else torch.float32
            tensors[name] = made(name, shape, dtype)
    trainable = [key for key in tensors if not re.search(r"^beats\.|lm_head|position_ids", key)]
    moments = {
        index: {"exp_avg": torch.zeros(shapes[key]), "exp_avg_sq": torch.zeros(shapes[key])}
        for index, key in enumerate(trainable)
    }
    content = {"model": tensors, "optimizer": {"state": moments}, "config": {}, "scaler": None, "epoch": 29}
    torch.save(content, file)


def write_set(
    config: Path,
    llm: Mapping[str, Any],
    whisper: Mapping[str, Any],
    beats: Mapping[str, Any],
    files: Files,
    speech_files: Files,
    hidden: int = 768,
) -> None:
    """Write all that an upstream YAML of the folder ``checkpoints`` names, but the tokenizer, beside it.

    Args:
        config: a copy of the YAML; its relative paths say where what is to lie.
        llm: config.
        whisper: config.
        beats: ``cfg``.
        files: of the LLM.
        speech_files: of Whisper.
        hidden: see ``trained_shapes``.
    """
    section, root = yaml.safe_load(config.read_text(encoding="utf-8"))["model"], config.parent
    write_llm(root / section["gemma_path" if "gemma_path" in section else "llama_path"], llm, files)
    write_whisper(root / section["whisper_path"], whisper, speech_files)
    for key in ("beats_path", "ckpt", "test_prompt_path"):
        (root / section[key]).parent.mkdir(parents=True, exist_ok=True)
    write_beats(root / section["beats_path"], beats)
    shapes = trained_shapes(llm, whisper, beats, hidden)
    write_trained(root / section["ckpt"], root / section["beats_path"], shapes)
    _write_json(root / section["test_prompt_path"], {"asr": "<Speech><SpeechHere></Speech> Write it down."})


class Weights:
    """Makes random tensors of one block of numbers: drawing billions would take minutes."""

    def __init__(self) -> None:
        self._noise = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)) * _SPREAD

    def __call__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Norms are neutral, matrices random; tensors of one name and shape are the same."""
        count = math.prod(shape)
        if "norm" in name.lower() and name.endswith("weight"):
            return torch.ones(shape, dtype=dtype)
        block = self._noise.to(dtype).roll(0 if "relative_attention_bias" in name else len(name))
        return block.repeat(-(-count // len(block)))[:count].clone().view(shape)


def _write_weights(folder: Path, shapes: Shapes, files: Files) -> None:
    stem, suffix = ("model", "safetensors") if files.kind == "safetensors" else ("pytorch_model", "bin")
    made = Weights()
    shards = list(_shards(shapes, files))
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        part = f"-{number:05d}-of-{len(shards):05d}" if files.shard_bytes else ""
        name = f"{stem}{part}.{suffix}"
        weight_map |= dict.fromkeys(names, name)
        tensors = {key: made(key, shapes[key], files.dtype) for key in names}
        if files.kind == "safetensors":
            save_file(tensors, folder / name, metadata={"format": "pt"})
        else:
            torch.save(tensors, folder / name)
    if files.shard_bytes:
        size = sum(math.prod(shape) for shape in shapes.values()) * files.dtype.itemsize
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        _write_json(folder / f"{stem}.{suffix}.index.json", index)


def _shards(shapes: Shapes, files: Files) -> Iterator[list[str]]:
    shard: list[str] = []
    size = 0
    for name, shape in shapes.items():
        more = math.prod(shape) * files.dtype.itemsize
        if shard and files.shard_bytes is not None and size + more > files.shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += more
    yield shard


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
