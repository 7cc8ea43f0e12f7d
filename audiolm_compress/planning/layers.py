"""The layers of a model as they are stored: names, sizes, formats. Works with and without weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from audiolm_compress.quantization import QuantizedEmbedding, QuantizedLinear, TiedHead
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.kernel_choice import rounds_inputs
from audiolm_compress.salmonn.structure import Structure

Kind = Literal["linear", "embedding", "convolution", "norm", "other"]
_SAFETENSORS_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int8: "I8",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in the saved file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size in the file and in memory."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Layer:
    """A module that has weights of its own, or reads those of another.

    Attributes:
        name: full name, such as ``llm.model.layers.0.mlp.up_proj``.
        kind: what it does with them.
        shape: of the weights as a matrix or kernel, however they are stored; [out, in] of a linear layer,
            [rows, width] of an embedding.
        tensors: what it stores, by name inside the module; empty if it reads another layer's weights.
        compute: type that the products of many positions are computed in; int8 for int8 x int8.
        floating: type of its results, and of the products of a single position such as a further token's.
        reads: name of the layer whose weights it reads, "" if its own.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    tensors: Mapping[str, Stored]
    compute: torch.dtype
    floating: torch.dtype
    reads: str = ""

    @property
    def part(self) -> str:
        """Part of the model."""
        return self.name.partition(".")[0]

    @property
    def plain_name(self) -> str:
        """The name without what a LoRA wrapping adds to it."""
        return self.name.replace(".base_model.model.", ".", 1).removesuffix(".base_layer")

    @property
    def is_lora(self) -> bool:
        """Whether it is a factor of a LoRA adapter."""
        return ".lora_" in self.name

    @property
    def parameters(self) -> int:
        """Weights and biases, however many bits each takes; those of another layer do not count again."""
        if self.reads:
            return 0
        if self.kind in ("linear", "embedding"):
            bias = self.tensors.get("bias")
            return math.prod(self.shape) + (bias.count if bias else 0)
        return sum(tensor.count for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return sum(tensor.bytes for tensor in self.tensors.values())


def layers_of(model: Structure) -> list[Layer]:
    """All layers with weights, in the order of the saved file; a tied head reads its embedding's."""
    owners: dict[int, str] = {}
    tensors: dict[str, dict[str, Stored]] = {}
    shared: dict[str, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        module, _, local = name.rpartition(".")
        # Not the address, as store.py does it: on the meta device all tensors have the same.
        if local == "weight" and id(tensor) in owners:
            shared[module] = owners[id(tensor)]
            continue
        owners[id(tensor)] = module
        tensors.setdefault(module, {})[local] = Stored(tuple(tensor.shape), tensor.dtype)
    modules = dict(model.named_modules())
    found = []
    for name, module in modules.items():
        if isinstance(module, TiedHead):
            shared[name] = module.embedding_name
        if name in tensors or name in shared:
            own = tensors.get(name, {})
            reads = shared.get(name, "")
            types = _types(module, own or tensors[reads])
            found.append(Layer(name, *_kind_and_shape(module, own), own, *types, reads))
    return found


def file_bytes(layers: list[Layer]) -> int:
    """Size of the ``model.safetensors`` that holds ``layers``: the tensors and the header that lists them."""
    header, position = {}, 0
    for layer in layers:
        for local, tensor in layer.tensors.items():
            header[f"{layer.name}.{local}"] = {
                "dtype": _SAFETENSORS_NAMES.get(tensor.dtype, "I64"),
                "shape": tensor.shape,
                "data_offsets": (position, position + tensor.bytes),
            }
            position += tensor.bytes
    text = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-text // 8) * 8 + position  # the length of the header, then the header, padded


def _kind_and_shape(module: nn.Module, tensors: Mapping[str, Stored]) -> tuple[Kind, tuple[int, ...]]:
    if isinstance(module, TiedHead):
        return "linear", (module.embedding.num_embeddings, module.embedding.embedding_dim)
    # By their sizes rather than by class: packed, low-rank and int8 layers are linear layers too.
    if isinstance(module, nn.Embedding | QuantizedEmbedding):
        return "embedding", (module.num_embeddings, module.embedding_dim)
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inputs, int) and isinstance(outputs, int):
        return "linear", (outputs, inputs)
    kernel = tensors.get("weight") or tensors.get("weight_v") or next(iter(tensors.values()))
    if len(kernel.shape) > 2 and "Conv" in type(module).__name__:
        return "convolution", kernel.shape
    return ("norm" if "Norm" in type(module).__name__ else "other"), kernel.shape


def _types(module: nn.Module, tensors: Mapping[str, Stored]) -> tuple[torch.dtype, torch.dtype]:
    """Types of products and of results: those of the weights or their scales; int8 for bytes."""
    found = [tensor.dtype for tensor in tensors.values() if tensor.dtype.is_floating_point]
    floating = found[0] if found else torch.float32
    if isinstance(module, QuantizedLinear):
        of_bytes = rounds_inputs(module.shape, floating)
    else:
        of_bytes = isinstance(module, Int8Linear)
    return torch.int8 if of_bytes else floating, floating


def weights_read(layers: list[Layer]) -> Iterator[tuple[Layer, Layer]]:
    """Each layer with the layer whose weights it reads, mostly itself."""
    by_name = {layer.name: layer for layer in layers}
    for layer in layers:
        yield layer, by_name[layer.reads] if layer.reads else layer
