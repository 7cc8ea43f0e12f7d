"""All parts of a model in plain folders, the LLM as transformers reads it.

llm/             AutoModelForCausalLM.from_pretrained, AutoTokenizer
speech_encoder/  WhisperEncoder.from_pretrained, WhisperFeatureExtractor
audio_encoder/   config.json, model.safetensors under BEATs' published names
connector/       config.json, model.safetensors under this package's names
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from audiolm_compress.errors import AudioLMError
from audiolm_compress.export.dense import dense_state, require_same, sixteen_bit
from audiolm_compress.export.llm import write_dense_llm
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream import load_whisper
from audiolm_compress.salmonn.widths import describe_widths


def write_parts(model: Salmonn, folder: Path, dtype: torch.dtype | None = None) -> tuple[str, ...]:
    """Write every part into a folder of its own, read it again, and return notes.

    Args:
        model: LoRA merged.
        folder: exists.
        dtype: of all floating weights; by default each part has the one that ``sixteen_bit`` gives.

    Raises:
        AudioLMError: a part is pruned to a shape that its architecture's config cannot say, or is not read
            back as it was written.
    """
    for name in model.parts():
        (folder / name).mkdir()
    notes = list(write_dense_llm(model, folder / "llm", dtype))
    notes += write_whisper(model, folder / "speech_encoder", dtype or sixteen_bit(model.speech_encoder))
    rest: dict[str, nn.Module] = {"connector": model.connector}
    if model.audio_encoder is not None:
        rest["audio_encoder"] = model.audio_encoder
    for name, part in rest.items():
        notes += _write_plain(name, part, folder / name, dtype or sixteen_bit(part))
    return tuple(notes)


def write_whisper(model: Salmonn, folder: Path, dtype: torch.dtype) -> list[str]:
    """Write Whisper's encoder and feature extractor, and read the encoder again.

    Raises:
        AudioLMError: it has fewer heads than its config can say, or is not read back as it was written.
    """
    encoder = model.speech_encoder
    if describe_widths(encoder):
        raise AudioLMError(
            "the speech encoder's attention heads were pruned, which a Whisper config cannot say: its number "
            "of heads must divide its width; export --to gptq, which holds the LLM alone"
        )
    dense = dense_state(encoder, dtype)
    save_file(dense.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    encoder.config.save_pretrained(folder)
    model.feature_extractor.save_pretrained(folder)
    require_same(load_whisper(str(folder), dtype=dtype).state_dict(), dense.tensors, folder)
    return [f"speech_encoder, {note}" for note in dense.notes]


def _write_plain(name: str, part: Any, folder: Path, dtype: torch.dtype) -> list[str]:
    """Write a part of this package, and build it again from the two files alone."""
    dense = dense_state(part, dtype)
    save_file(dense.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(part.config.to_dict(), indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    with torch.device("meta"):
        again = type(part)(type(part.config)(**json.loads(text)))
    again.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    require_same(again.state_dict(), dense.tensors, folder)
    return [f"{name}, {note}" for note in dense.notes]
