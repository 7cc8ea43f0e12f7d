"""The LLM as a folder of transformers': config, weights, tokenizer, generation settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from audiolm_compress.errors import BaselineError
from audiolm_compress.export.dense import dense_state, sixteen_bit
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
        BaselineError: transformers does not read what was written as the model that it is.
    """
    dtype = dtype or sixteen_bit(model.causal_lm)
    dense = dense_state(model.causal_lm, dtype)
    write_llm(model, folder, dense.tensors, dtype)
    again = load_llm(str(folder), 0, dtype=dtype).state_dict()
    for name, tensor in dense.tensors.items():
        if not torch.equal(again[name], tensor):
            raise BaselineError(f"{folder}: {name} is not read back as it was written")
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
    config.save_pretrained(folder)
    model.causal_lm.generation_config.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
