"""SALMONNs of real size with random weights, for ``full_size.py``: shapes, bytes and kernels, no quality.

A model is laid out from configs without weights, as ``audiolm-compress plan`` does, and the passes of a
recipe do to it in sizes what they would do to a trained one. Only then are weights written.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from audiolm_compress.passes.base import Pass
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization import QuantizedLinear
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model

# The published sizes: openai/whisper-large-v3-turbo, google/gemma-2-2b and meta-llama/Llama-3.2-3B. BEATs and
# the Q-Former have the published sizes where nothing else is said.
WHISPER: dict[str, Any] = {
    "model_type": "whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
}
LLMS: dict[str, dict[str, Any]] = {
    "gemma-2-2b": {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "dtype": "bfloat16",
        "vocab_size": 256_000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
    },
    "llama-3.2-3b": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "vocab_size": 128_256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
}
_SPREAD = 0.02  # standard deviation of random weights: activations stay finite in 16 bit
_BLOCK = 2**20  # random numbers are drawn once and repeated: drawing billions takes minutes


def upstream(llm: str, folder: Path, layers: int | None = None) -> Sketch:
    """The upstream arrangement without weights: encoders float32, LLM bfloat16, LoRA unmerged.

    Args:
        llm: a key of ``LLMS``.
        folder: where to write the configs.
        layers: at most this many layers of Whisper and the LLM, to try the script out.
    """
    sizes = {
        "whisper": WHISPER | {"encoder_layers": _at_most(layers, WHISPER["encoder_layers"])},
        "llm": LLMS[llm] | {"num_hidden_layers": _at_most(layers, LLMS[llm]["num_hidden_layers"])},
    }
    for name, config in sizes.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    prompts = {"asr": "<Speech><SpeechHere></Speech> Recognize the speech and give me the transcription."}
    (folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    model = {
        "gemma_path" if llm.startswith("gemma") else "llama_path": "llm",
        "whisper_path": "whisper",
        "beats_path": "beats.pt",
        "lora": True,
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "prompt_template": "USER: {}\nASSISTANT:",
        "test_prompt_path": "prompts.json",
        "end_sym": "</s>",
    }
    config_file = folder / "salmonn.yaml"
    config_file.write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
    outline = outline_model(config_file)
    return Sketch(outline.model, tokenizer_known=outline.tokenizer_known)


def change(sketch: Sketch, entry: Pass) -> None:
    """Leave the sketch as the pass would leave the model."""
    entry.predict(sketch)


def write(model: Salmonn, folder: Path) -> None:
    """Write ``model``, which has no weights, as a folder with random ones; norms are neutral."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_BLOCK, generator=generator) * _SPREAD
    codes = torch.randint(-(2**31), 2**31 - 1, (_BLOCK,), generator=generator)
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter) and id(tensor) in first:
            aliases[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        owner, _, key = name.rpartition(".")
        module = model.get_submodule(owner)
        if not tensor.is_floating_point():
            tensors[name] = _repeated(codes, tensor.shape).to(tensor.dtype)
        elif key == "scales":
            bits = module.scheme.bits if isinstance(module, QuantizedLinear) else 8
            spread_of_codes = 2**bits / math.sqrt(12)  # they are uniform
            tensors[name] = torch.full(tensor.shape, _SPREAD / spread_of_codes, dtype=tensor.dtype)
        elif tensor.dim() == 1:
            # Gemma's norms multiply by 1 + weight.
            one = key == "weight" and "Norm" in type(module).__name__ and "Gemma" not in type(module).__name__
            tensors[name] = torch.full(tensor.shape, float(one), dtype=tensor.dtype)
        else:
            tensors[name] = _repeated(noise, tensor.shape).to(tensor.dtype)
    save_file(tensors, folder / store.WEIGHTS)
    model.tokenizer.save_pretrained(folder)
    model.feature_extractor.save_pretrained(folder)
    config = store.describe(model) | {"aliases": aliases, "dtypes": {}}
    (folder / store.CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _repeated(block: Tensor, shape: torch.Size) -> Tensor:
    count = math.prod(shape)
    return block.repeat(-(-count // len(block)))[:count].view(shape)


def _at_most(limit: int | None, count: int) -> int:
    return count if limit is None else min(limit, count)
