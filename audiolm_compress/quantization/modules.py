"""All replaced modules of a model: built from their description, tied, prepared, reported."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from audiolm_compress.quantization.adapted import AdaptedLinear
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.embedding import QuantizedEmbedding, TiedHead
from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.heap import give_back
from audiolm_compress.quantization.linear import QuantizedLinear
from audiolm_compress.quantization.low_rank import LowRankLinear
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.quantization.sinusoids import Sinusoids

_KEPT_AT_MOST = 100 * 2**20  # bytes rearranged before what they leave behind is handed back
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def module_from_spec(spec: dict[str, Any]) -> nn.Module:
    """An empty module as described by its ``spec()``.

    Raises:
        ValueError: an unknown kind.
    """
    if spec["kind"] == "linear":
        scheme = Scheme(spec["bits"], spec["group_size"], spec["symmetric"], spec.get("progressive", False))
        return QuantizedLinear(
            spec["in_features"],
            spec["out_features"],
            scheme,
            bias=spec["bias"],
            dtype=_DTYPES[spec["dtype"]],
            activations=spec.get("activations", 16),
            outliers=spec.get("outliers", 0),
        )
    if spec["kind"] == "int8_linear":
        return Int8Linear(
            spec["in_features"], spec["out_features"], bias=spec["bias"], dtype=_DTYPES[spec["dtype"]]
        )
    if spec["kind"] == "embedding":
        return QuantizedEmbedding(
            spec["num_embeddings"],
            spec["embedding_dim"],
            embed_scale=spec["embed_scale"],
            dtype=_DTYPES[spec["dtype"]],
        )
    if spec["kind"] == "tied_head":
        return TiedHead(spec["embedding"])
    if spec["kind"] == "low_rank":
        return LowRankLinear(spec["in_features"], spec["out_features"], spec["rank"])
    if spec["kind"] == "adapted":
        return AdaptedLinear(module_from_spec(spec["base"]), spec["rank"])
    if spec["kind"] == "dense":
        device = torch.get_default_device()
        return skip_init(
            nn.Linear, spec["in_features"], spec["out_features"], bias=spec["bias"], device=device
        )
    if spec["kind"] == "sinusoids":
        return Sinusoids(spec["num_embeddings"], spec["embedding_dim"])
    raise ValueError(f"unknown kind of module: {spec['kind']!r}")


def tie_heads(model: nn.Module) -> None:
    """Connect each `TiedHead` of ``model`` with the embedding that its spec names.

    Raises:
        ValueError: that module is no `QuantizedEmbedding`.
    """
    for head in [module for module in model.modules() if isinstance(module, TiedHead)]:
        embedding = model.get_submodule(head.embedding_name)
        if not isinstance(embedding, QuantizedEmbedding):
            raise ValueError(
                f"{head.embedding_name} is no quantised embedding; the head cannot be tied to it"
            )
        head.connect(embedding)


def prepare_modules(model: nn.Module) -> list[str]:
    """Prepare every quantised layer for its device; the distinct warnings, each with its number of layers."""
    counts: dict[str, int] = {}
    freed = 0
    for layer in [module for module in model.modules() if isinstance(module, PackedLinear | TiedHead)]:
        warning = layer.prepare()
        if warning:
            counts[warning] = counts.get(warning, 0) + 1
        freed += sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
        if freed > _KEPT_AT_MOST:
            give_back()
            freed = 0
    return [f"{count} layers, {warning}" for warning, count in counts.items()]


def module_bytes(module: nn.Module, seen: set[int]) -> int:
    """Bytes of parameters and buffers, shared storage once; ``seen`` are addresses already counted."""
    size = 0
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_mkldnn:  # packed by oneDNN: shared with nobody, and without a storage to ask
            size += tensor.numel() * tensor.element_size()
            continue
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            size += storage.nbytes()
    return size


def kernel_report(model: nn.Module) -> dict[str, int]:
    """Number of quantised layers by the kernel that computes them."""
    names = [m.kernel.name for m in model.modules() if isinstance(m, PackedLinear)]
    names += [m.kernel_name for m in model.modules() if isinstance(m, TiedHead)]
    return {name: names.count(name) for name in sorted(set(names))}
