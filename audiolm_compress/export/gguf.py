"""The LLM as one GGUF file, which llama.cpp and what is built on it run.

Three things are translated: the architecture (gguf_architecture.py), the tokenizer (gguf_vocabulary.py)
and, here, the weights. What llama.cpp has no word for is refused, as it would run another function without
saying so.

Matrices are written in one of ``TYPES``, vectors always in float32. Blocks of 32 weights of a row share a
scale in

    q8_0    w = d * q,        q = -127 .. 127      8.5 bits a weight
    q4_0    w = d * (q - 8),  q = 0 .. 15          4.5 bits; embedding and head q8_0

A matrix whose rows are no multiples of 32 is written in float16. Packed layers keep their integers where
a block can hold them (gguf_blocks.py); the others, and all of them in the other types, are multiplied out.
gguf_tensors.py writes them.

Layout and names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and the package ``gguf``, which
llama.cpp's own converter writes with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from audiolm_compress import __version__
from audiolm_compress.errors import AudioLMError
from audiolm_compress.export.dense import REPLACEMENTS, sixteen_bit, tensor_makers
from audiolm_compress.export.gguf_architecture import Architecture, architecture
from audiolm_compress.export.gguf_blocks import BLOCK, Blocks, blocks_of, blocks_type
from audiolm_compress.export.gguf_tensors import ROUNDED, Planned, check, write_tensors
from audiolm_compress.export.gguf_vocabulary import vocabulary
from audiolm_compress.export.llm import EMBEDDING, HEAD
from audiolm_compress.salmonn.model import Salmonn

if TYPE_CHECKING:
    import gguf

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
_SIXTEEN_BIT = {torch.float16: "f16", torch.bfloat16: "bf16"}
_LLAMA_BIASES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_gguf(
    model: Salmonn, folder: Path, dtype: torch.dtype | None = None, *, kind: str | None = None
) -> tuple[str, ...]:
    """Write the file, read it again, and return notes.

    Args:
        model: LoRA merged.
        folder: exists.
        dtype: must be None; ``kind`` says the type.
        kind: one of ``TYPES``; by default the LLM's own 16-bit type, or bf16.

    Raises:
        AudioLMError: the package gguf is missing, llama.cpp would run another model, or a tensor is not read
            back as it was written.
    """
    check_gguf(dtype)
    import gguf

    llm = model.causal_lm
    kind = kind or _SIXTEEN_BIT[sixteen_bit(llm)]
    built = architecture(llm.config)
    words = vocabulary(model)
    planned, notes = plan(llm, built, kind)
    size = gguf.size_label(sum(torch.Size(one.shape).numel() for one in planned), 0, 0, 0)
    name = gguf.naming_convention(None, built.name, None, None, size, kind)
    writer = gguf.GGUFWriter(folder / f"{name}.gguf", built.name)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_size_label(size)
    writer.add_string(
        "general.description", f"LLM of an audio language model, audiolm-compress {__version__}"
    )
    writer.add_file_type(_file_type(kind))
    if kind in ROUNDED:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in built.metadata.items():
        _add(writer, f"{built.name}.{key}", value)
    for key, value in words.metadata.items():
        _add(writer, f"tokenizer.{key}", value)
    write_tensors(writer, planned)
    check(folder / f"{name}.gguf", planned)
    return (f"{name}.gguf has {len(planned)} tensors, matrices in {kind}", *notes, *built.notes, *words.notes)


def check_gguf(dtype: torch.dtype | None) -> None:
    """What can be said before a model is loaded.

    Raises:
        AudioLMError: a type is asked for, or the package gguf is missing.
    """
    if dtype is not None:
        raise AudioLMError("--dtype: weights of GGUF files have types of their own; give --gguf-type instead")
    if find_spec("gguf") is None:
        raise AudioLMError(
            "--to gguf needs the package gguf, not installed here; "
            "pip install -c constraints.txt 'audiolm-compress[gguf]'"
        )


def plan(llm: Any, built: Architecture, kind: str) -> tuple[list[Planned], list[str]]:
    """All tensors of the file, in its order, and what was done to get them.

    Raises:
        AudioLMError: the LLM has tensors that its architecture does not.
    """
    import gguf

    makers, packed = tensor_makers(llm)
    shapes = _expected(llm)
    tied = HEAD not in makers or _is_tied(llm, makers)
    if tied:
        shapes.pop(HEAD, None)
    elif built.name == "gemma2":
        raise AudioLMError(
            "--to gguf: head and embedding of the LLM differ, and llama.cpp's gemma2 has one matrix for both"
        )
    names = gguf.get_tensor_name_map(_of_name(gguf.MODEL_ARCH_NAMES, built.name), built.layers)
    planned, notes, uneven, whole, again = [], [] if kind in ROUNDED else list(packed), 0, 0, 0
    for name, make in makers.items():
        if name == HEAD and tied:
            continue
        layer, _, last = name.rpartition(".")
        if name in shapes:
            shape = shapes.pop(name)
        elif built.name == "llama" and last == "bias" and layer.rpartition(".")[2] in _LLAMA_BIASES:
            shape = tuple(make().shape)  # of a low-rank layer
        else:
            raise AudioLMError(
                f"--to gguf: the LLM has {name}, which llama.cpp's {built.name} does not; "
                "export --to safetensors16"
            )
        module = llm.get_submodule(layer) if last == "weight" else None
        kept = blocks_type(module, kind) if kind in ROUNDED else None
        own = kept or _type(kind, name, shape)
        whole += kept is not None
        again += kept is None and isinstance(module, REPLACEMENTS)
        uneven += len(shape) > 1 and own == "f16" != kind
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert written is not None, name
        planned.append(
            Planned(
                written,
                shape,
                gguf.GGMLQuantizationType[own.upper()],
                partial(_stored, built, name, make),
                partial(_stored_blocks, built, name, module) if kept and module is not None else None,
            )
        )
    if shapes:
        raise AudioLMError(f"--to gguf: the LLM lacks {', '.join(shapes)}")
    if (factors := built.rope_factors) is not None:
        planned.append(
            Planned("rope_freqs.weight", tuple(factors.shape), gguf.GGMLQuantizationType.F32, lambda: factors)
        )
    if uneven:
        notes.append(f"{uneven} matrices are f16, as their rows are no multiples of {BLOCK}")
    if kind in ROUNDED and packed:
        notes.append(f"{whole} packed matrices keep their integers, scales are float16")
        if again:
            notes.append(
                f"{again} are multiplied out and rounded to {kind}; --gguf-type bf16 or f16 does not"
            )
    return planned, notes


def _expected(llm: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that transformers gives an LLM of this config."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(llm.config)
    return {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}


def _is_tied(llm: Any, makers: dict[str, Callable[[], Tensor]]) -> bool:
    head, embedding = llm.get_output_embeddings(), llm.get_input_embeddings()
    if getattr(head, "embedding", None) is embedding or getattr(head, "weight", 0) is getattr(
        embedding, "weight", 1
    ):
        return True
    return torch.equal(makers[HEAD](), makers[EMBEDDING]())


def _stored(built: Architecture, name: str, make: Callable[[], Tensor]) -> Tensor:
    return built.stored(name, make())


def _stored_blocks(built: Architecture, name: str, module: nn.Module) -> Blocks:
    """Rows change places, numbers and scales alike; no matrix changes in any other way."""
    return Blocks(*(built.stored(name, part) for part in blocks_of(module)))


def _type(kind: str, name: str, shape: tuple[int, ...]) -> str:
    """The type of a tensor in a file whose matrices are ``kind``."""
    if len(shape) < 2:
        return "f32"
    if kind in ROUNDED and shape[-1] % BLOCK:
        return "f16"
    return "q8_0" if kind == "q4_0" and name in (EMBEDDING, HEAD) else kind


def _file_type(kind: str) -> int:
    import gguf

    return gguf.LlamaFileType.ALL_F32 if kind == "f32" else gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"]


def _of_name(names: Any, name: str) -> Any:
    return next(key for key, value in names.items() if value == name)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Metadata with the type that llama.cpp reads its kind with."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
