"""The weights of a part as plain matrices, under the names that its architecture gives them.

What passes have put in the place of a Linear or an Embedding is a matrix in another form: integers on a grid,
two factors, a layer with an adapter beside it. Here it becomes that matrix again, so that code which knows
nothing of this package can read it. The function stays the same up to one rounding to the dtype asked for;
the smaller size is lost, so every export says what it did this to.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiolm_compress.errors import AudioLMError
from audiolm_compress.quantization.adapted import AdaptedLinear, adapted_weight
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.embedding import QuantizedEmbedding, TiedHead
from audiolm_compress.quantization.linear import QuantizedLinear
from audiolm_compress.quantization.low_rank import LowRankLinear
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.quantization.sinusoids import Sinusoids, sinusoids

REPLACEMENTS = (PackedLinear, LowRankLinear, AdaptedLinear, QuantizedEmbedding, TiedHead, Sinusoids)


class Dense(NamedTuple):
    """Plain tensors by name, and what was done to get them, a line a kind of module."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def matrix(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weights [out, in] (of an embedding [rows, width]) that a module stands for, and its bias [out].

    Raises:
        AudioLMError: a kind of module that has no such form.
    """
    if isinstance(module, QuantizedLinear | Int8Linear):
        return module.dense(), module.bias
    if isinstance(module, QuantizedEmbedding):
        return module.dense(), None
    if isinstance(module, TiedHead):
        return module.embedding.dense(), None
    if isinstance(module, LowRankLinear):
        (expand, bias), (reduce, _) = matrix(module.expand), matrix(module.reduce)
        return expand.float() @ reduce.float(), bias
    if isinstance(module, AdaptedLinear):
        weight, bias = matrix(module.base_layer)
        return adapted_weight(weight, module.lora_A.weight, module.lora_B.weight), bias
    if isinstance(module, Sinusoids):
        return sinusoids(torch.arange(module.num_embeddings), module.embedding_dim), None
    if isinstance(module, nn.Linear | nn.Embedding):
        return module.weight, getattr(module, "bias", None)
    raise AudioLMError(f"a {type(module).__name__} has no plain form, so it cannot be exported")


def tensor_makers(
    part: nn.Module, without: Container[str] = ()
) -> tuple[dict[str, Callable[[], Tensor]], tuple[str, ...]]:
    """What makes the plain tensors of ``part``, by name, one at a time; and notes as of ``Dense``.

    Args:
        part: an encoder, the connector or a causal LM, adapters of the LLM merged.
        without: full names of modules of this package that are left out.
    """
    makers: dict[str, Callable[[], Tensor]] = {
        name: partial(_plain, tensor) for name, tensor in part.state_dict().items()
    }
    kinds: Counter[str] = Counter()
    for name, module in part.named_modules():
        if not isinstance(module, REPLACEMENTS) or within_replacement(part, name):
            continue
        for former in [key for key in makers if key.startswith(f"{name}.")]:
            del makers[former]
        if name in without:
            continue
        makers[f"{name}.weight"] = partial(_plain, module)
        if (bias := _bias(module)) is not None:
            makers[f"{name}.bias"] = partial(_plain, bias)
        kinds[kind_of(module)] += 1
    return makers, tuple(f"{count} x {kind}: written as plain weights" for kind, count in kinds.items())


@torch.no_grad()
def dense_state(part: nn.Module, dtype: torch.dtype | None = None, without: Container[str] = ()) -> Dense:
    """The state of ``part`` without a module of this package in it.

    Args:
        part: an encoder, the connector or a causal LM, adapters of the LLM merged.
        dtype: of all floating tensors; None leaves each as it is.
        without: full names of modules of this package that are left out.

    Raises:
        AudioLMError: a kind of module that has no plain form, or a number that ``dtype`` cannot hold.
    """
    makers, notes = tensor_makers(part, without)
    made = ((name, make()) for name, make in makers.items())
    tensors = {n: cast(n, one, dtype or one.dtype) if one.is_floating_point() else one for n, one in made}
    return Dense(tensors, notes)


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating tensor in another type.

    Raises:
        AudioLMError: a number becomes infinite, as do those beyond 65504 in float16; names the tensor.
    """
    found = tensor.to(dtype)
    if found.isinf().any() and not tensor.isinf().any():
        kind = str(dtype).removeprefix("torch.")
        raise AudioLMError(
            f"{name} has numbers up to {tensor.abs().max().item():.3g}, which {kind} cannot hold; "
            "export with --dtype bfloat16"
        )
    return found


@torch.no_grad()
def _plain(source: nn.Module | Tensor) -> Tensor:
    weight = matrix(source)[0] if isinstance(source, nn.Module) else source
    return weight.detach().cpu().contiguous()


def _bias(module: nn.Module) -> Tensor | None:
    """The second result of ``matrix`` without the first."""
    if isinstance(module, LowRankLinear):
        return _bias(module.expand)
    return _bias(module.base_layer) if isinstance(module, AdaptedLinear) else getattr(module, "bias", None)


@torch.no_grad()
def plain_copy(part: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of an encoder or the connector in float32 without a packed or adapted layer, and what was done.

    Low-rank layers stay two layers and computed positions computed: both are plain operations.
    """
    plain: dict[int, nn.Module] = {}
    kinds: Counter[str] = Counter()
    for name, module in part.named_modules():
        if isinstance(module, PackedLinear | AdaptedLinear) and not _within_adapted(part, name):
            plain[id(module)] = _linear(*matrix(module))
            kinds[kind_of(module)] += 1
    # What stands in the memo is taken for the copy: packed weights are not copied first.
    copied = copy.deepcopy(part, plain)
    notes = tuple(f"{count} x {kind}: plain float32 weights" for kind, count in kinds.items())
    return copied.float().eval().requires_grad_(False), notes


def require_same(found: Mapping[str, Tensor], written: Mapping[str, Tensor], folder: Path) -> None:
    """See that what was read again is what was written.

    Raises:
        AudioLMError: names the first tensor that is not.
    """
    for name, tensor in written.items():
        if name not in found or not torch.equal(found[name], tensor):
            raise AudioLMError(f"{folder}: {name} is not read back as it was written")


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias is not None)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer


def kind_of(module: nn.Module) -> str:
    """What a reader calls a module of this package."""
    if isinstance(module, QuantizedLinear):
        scheme = module.scheme
        rows = "whole rows" if scheme.group_size == -1 else f"groups of {scheme.group_size}"
        return f"{scheme.bits}-bit linear layer in {rows}"
    return {
        Int8Linear: "8-bit linear layer",
        QuantizedEmbedding: "8-bit embedding",
        TiedHead: "head tied to an 8-bit embedding",
        LowRankLinear: "low-rank linear layer",
        AdaptedLinear: "linear layer with an adapter",
        Sinusoids: "computed table of positions",
    }[type(module)]


def sixteen_bit(part: nn.Module) -> torch.dtype:
    """The 16-bit type of most of ``part``; bfloat16, which has float32's range, if it has none."""
    tensors = [*part.parameters(), *part.buffers()]
    sizes = Counter[torch.dtype]()
    for tensor in tensors:
        if tensor.dtype in (torch.float16, torch.bfloat16):
            sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.bfloat16


def main_type(part: nn.Module) -> torch.dtype:
    """The floating type that most numbers of ``part`` have once it is plain; adapters do not count."""
    sizes = Counter[torch.dtype]()
    for name, tensor in dense_state(part).tensors.items():
        if tensor.is_floating_point() and ".lora_" not in name:
            sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0]


def _within_adapted(part: nn.Module, name: str) -> bool:
    while name := name.rpartition(".")[0]:
        if isinstance(part.get_submodule(name), AdaptedLinear):
            return True
    return False


def within_replacement(part: nn.Module, name: str) -> bool:
    """Whether the module called ``name`` belongs to one that is written as a whole."""
    while name := name.rpartition(".")[0]:
        if isinstance(part.get_submodule(name), REPLACEMENTS):
            return True
    return False
