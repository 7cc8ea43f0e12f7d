"""The LLM as a folder of transformers': config, weights, tokenizer, generation settings.

Version 5 of transformers has renamed keys of these files. Readers that are built on releases before, as are
upstream's code and much of vLLM's and SGLang's field, take what they do not find for its default and say
nothing: a Llama 3 would turn its positions by 10,000 instead of 500,000. So the former keys stand beside the
new ones.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from torch import Tensor

from audiolm_compress.errors import AudioLMError
from audiolm_compress.export.dense import dense_state, require_same, sixteen_bit
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream import load_llm

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write_dense_llm(model: Salmonn, folder: Path, dtype: torch.dtype | None = None) -> tuple[str, ...]:
    """Write the LLM with plain weights, read it again, and return notes.

    Args:
        model: LoRA merged.
        folder: exists.
        dtype: of the weights; by default see ``sixteen_bit``.

    Raises:
        AudioLMError: transformers does not read what was written as the model that it is.
    """
    dtype = dtype or sixteen_bit(model.causal_lm)
    dense = dense_state(model.causal_lm, dtype)
    write_llm(model, folder, dense.tensors, dtype)
    require_same(load_llm(str(folder), 0, dtype=dtype).state_dict(), dense.tensors, folder)
    return (f"weights of the LLM are {str(dtype).removeprefix('torch.')}", *dense.notes)


def write_llm(
    model: Salmonn,
    folder: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    quantization: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a causal LM into an existing folder.

    Args:
        model: has the LLM's config, generation settings and tokenizer.
        folder: exists.
        tensors: under transformers' names; a head equal to the embedding is left out, as a tied one.
        dtype: what the config says.
        quantization: the config's ``quantization_config``.

    Raises:
        AudioLMError: transformers refuses the config, as of an LLM whose heads were pruned to a number that
            does not divide its width.
    """
    written = dict(tensors)
    head, embedding = written.get(HEAD), written.get(EMBEDDING)
    tied = head is not None and embedding is not None and torch.equal(head, embedding)
    if tied:
        del written[HEAD]
    save_file(written, folder / "model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.causal_lm.config)
    config.tie_word_embeddings = tied
    config.architectures = [type(model.causal_lm).__name__]
    config.dtype = dtype
    if quantization is not None:
        config.quantization_config = dict(quantization)
    try:
        config.save_pretrained(folder)
    except StrictDataclassError as error:
        raise AudioLMError(
            f"transformers has no config for the LLM as it is now, so others could not open it: {error}; if "
            "attention heads were pruned, keep a number that divides the width, or prune the FFN alone "
            "(prune_width)"
        ) from error
    # save_pretrained refuses what some publishers have: Vicuna's file gives a temperature without sampling.
    model.causal_lm.generation_config.to_json_file(folder / "generation_config.json", use_diff=True)
    model.tokenizer.save_pretrained(folder)
    _add_former_keys(folder)


def _add_former_keys(folder: Path) -> None:
    """Say what transformers 5 wrote also in the words of releases before it."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["torch_dtype"] = config["dtype"]
    rope = dict(config.get("rope_parameters") or {})
    if "rope_theta" in rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    file = folder / "tokenizer_config.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":  # version 5 knows the former name, too
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        file.write_text(json.dumps(tokenizer, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
