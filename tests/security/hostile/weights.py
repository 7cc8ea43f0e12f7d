"""Safetensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from audiolm_compress.salmonn.load import load_model

from ..conftest import Clean
from .kinds import hostile


def with_header(clean: Clean, header: bytes, length: int | None = None, data: bytes = bytes(64)) -> Path:
    folder = clean.folder()
    size = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + header + data)
    return folder


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def with_entries(clean: Clean, **entries: Any) -> Path:
    return with_header(clean, json.dumps(entries).encode())


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_header_of_many_terabytes(clean: Clean) -> Path:
    return with_header(clean, b"{}", length=2**62)


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_header_longer_than_the_file(clean: Clean) -> Path:
    return with_header(clean, b"{}", length=10_000)


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_that_overlap(clean: Clean) -> Path:
    return with_entries(clean, a=entry([16], 0, 64), b=entry([16], 0, 64))


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_with_offsets_beyond_the_end(clean: Clean) -> Path:
    return with_entries(clean, a=entry([2**40], 0, 2**42))


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_with_a_shape_that_overflows(clean: Clean) -> Path:
    return with_entries(clean, a=entry([2**40, 2**40], 0, 64))


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_with_a_negative_shape(clean: Clean) -> Path:
    return with_entries(clean, a=entry([-16], 0, 64))


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_of_an_unknown_dtype(clean: Clean) -> Path:
    return with_entries(clean, a=entry([16], 0, 64, "F17"))


@hostile(load_model, r"model is damaged: SafetensorError|do not fit")
def safetensors_with_a_key_twice(clean: Clean) -> Path:
    one = json.dumps(entry([16], 0, 64))
    return with_header(clean, f'{{"a": {one}, "a": {one}}}'.encode())


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_with_nan_in_its_metadata(clean: Clean) -> Path:
    return with_header(clean, b'{"__metadata__": {"a": NaN}}')


@hostile(load_model, r"model\.safetensors: .* has dtype I32, expected one like torch\.float32")
def safetensors_of_whole_numbers(clean: Clean) -> Path:
    folder = clean.folder()
    tensors = load_file(folder / "model.safetensors")
    name = "connector.ln_speech.weight"
    save_file(tensors | {name: tensors[name].int()}, folder / "model.safetensors")
    return folder


@hostile(load_model, r"LLM .*llm cannot be loaded: SafetensorError")
def safetensors_of_the_llm_truncated(clean: Clean) -> Path:
    config = clean.upstream()
    file = config.parent / "llm" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return config
