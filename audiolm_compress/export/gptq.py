"""The LLM as a Hugging Face GPTQ checkpoint, which GPTQModel, vLLM and SGLang load.

A layer of b bits is written as (layout of the GPTQ paper's code, arXiv:2210.17323, as kept by AutoGPTQ and
GPTQModel, ``checkpoint_format: gptq``):

    qweight  int32 [in * b / 32, out]       codes along the inputs, a little-endian bit stream
    scales         [groups, out]
    qzeros   int32 [groups, out * b / 32]   zero points along the outputs, **each less one**
    g_idx    int32 [in]                     the group of each input

and read as W[o, i] = scales[g_idx[i], o] * (q - (z + 1)). Ours differs in what it leaves out: symmetric
layers store no zero points, progressive scales are products. Codes are written bit for bit.

Less one cannot be said of a zero point 0: readers add one to the packed words, and the carry would run into
the neighbour. GPTQModel therefore opens asymmetric layers of version 1 only where it wrote them itself. With
any such layer the checkpoint is ``gptq_v2``, which stores zero points as they are.

What the format cannot hold is written with plain 16-bit weights, excluded by name in ``dynamic`` and noted:
layers with sizes that are no multiples of 32, groups of unusual sizes, 8-bit embeddings and heads, low-rank
and adapted layers. Layers of other bits or groups than most get their own entry in ``dynamic``: a regular
expression, of which readers take the first that matches. vLLM and SGLang ask for a block's query, key and
value by one name, gate and up too, so an entry that is true of all of them also matches that name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from audiolm_compress import __version__
from audiolm_compress.errors import AudioLMError
from audiolm_compress.export.dense import REPLACEMENTS, cast, dense_state, sixteen_bit, within_replacement
from audiolm_compress.export.llm import HEAD, write_llm
from audiolm_compress.quantization.kernels import stored_parts
from audiolm_compress.quantization.linear import QuantizedLinear
from audiolm_compress.quantization.packing import RUN, pack
from audiolm_compress.salmonn.model import Salmonn

_TENSORS = ("qweight", "qzeros", "scales", "g_idx")
GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)  # what GPTQModel's kernels know
# packed_modules_mapping of vLLM's Llama, Gemma 2 and Qwen 2
JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class Settings(NamedTuple):
    """What ``quantization_config`` says of a layer."""

    bits: int
    group_size: int
    sym: bool

    @property
    def for_marlin(self) -> bool:
        """Whether vLLM has a kernel for it that is not of float16 alone."""
        return self.bits >= 4 and self.sym and self.group_size in (-1, 32, 64, 128)


def settings_of(layer: QuantizedLinear) -> Settings:
    """Whole rows are groups of -1, however the recipe wrote it."""
    scheme = layer.scheme
    whole = scheme.groups(layer.in_features) == 1
    return Settings(scheme.bits, -1 if whole else scheme.group_size, scheme.symmetric)


def obstacle(layer: QuantizedLinear) -> str:
    """Why the format cannot hold ``layer``; "" if it can."""
    if layer.in_features % RUN or layer.out_features % RUN:
        return f"sizes {layer.in_features} and {layer.out_features} are no multiples of {RUN}"
    group = settings_of(layer).group_size
    if group not in GROUPS:
        return f"groups of {group}; kernels know {', '.join(map(str, GROUPS))}"
    if group != -1 and layer.in_features % group:
        return f"{layer.in_features} inputs are no multiple of the group of {group}"
    return ""


def gptq_tensors(layer: QuantizedLinear, version: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The four tensors of a layer, and its bias.

    Args:
        layer: without ``obstacle``.
        version: 1 stores zero points less one, 2 as they are.
        dtype: of scales and bias.

    Raises:
        AudioLMError: a scale or a bias does not fit ``dtype``.
    """
    codes, scales, zeros = stored_parts(layer.shape, layer.stored())
    bits = layer.scheme.bits
    stored_zeros = (zeros - int(version == 1)).to(torch.int64)
    width = layer.scheme.width(layer.in_features)
    tensors = {
        "qweight": pack(codes, bits),
        "qzeros": pack(stored_zeros.T, bits).T.contiguous(),
        "scales": cast("a layer's scales", scales, dtype).contiguous(),
        "g_idx": torch.arange(layer.in_features, dtype=torch.int32) // width,
    }
    return tensors if layer.bias is None else tensors | {"bias": cast("a layer's bias", layer.bias, dtype)}


def dequantize(tensors: dict[str, Tensor], bits: int, version: int) -> Tensor:
    """Weights float32 [out, in] of a layer's tensors, by the definition: number by number of the bit stream.

    Shares no code with what packs, so that reading back can find a mistake in either.
    """

    def numbers(words: Tensor) -> Tensor:
        """Numbers [rows, n * 32 / bits] of little-endian bit streams int32 [rows, n]."""
        places = torch.arange(32)
        stream = (words.long()[..., None] >> places & 1).flatten(1).unflatten(1, (-1, bits))
        return (stream << places[:bits]).sum(-1)

    codes = numbers(tensors["qweight"].T)
    zeros = numbers(tensors["qzeros"]) + int(version == 1)
    group = tensors["g_idx"].long()
    return tensors["scales"].float()[group].T * (codes - zeros[group].T)


def write_gptq(model: Salmonn, folder: Path, dtype: torch.dtype | None = None) -> tuple[str, ...]:
    """Write the LLM into an existing folder, read it again, and return notes.

    Args:
        model: LoRA merged.
        folder: exists.
        dtype: of scales and of what is not quantised; by default see ``sixteen_bit``.

    Raises:
        AudioLMError: no layer that the format can hold, or a layer is not read back as it was written.
    """
    llm = model.causal_lm
    dtype = dtype or sixteen_bit(llm)
    quantized = {name: one for name, one in llm.named_modules() if isinstance(one, QuantizedLinear)}
    blocks = {name: one for name, one in quantized.items() if name.startswith("model.layers.")}
    packed = {
        name: one for name, one in blocks.items() if not obstacle(one) and not within_replacement(llm, name)
    }
    if not packed:
        found = Counter(
            obstacle(one) or "part of a layer that is low-rank or has an adapter" for one in blocks.values()
        )
        why = "; ".join(f"{count} layers: {reason}" for reason, count in found.items()) or "none is quantised"
        raise AudioLMError(
            f"--to gptq: no layer of the LLM can be written as GPTQ ({why}); "
            "run the pass `gptq` with groups of 32 to 128 first, or export --to safetensors16"
        )
    version = 1 if all(layer.scheme.symmetric for layer in packed.values()) else 2
    tensors = dense_state(llm, dtype, without=packed).tensors
    for name, layer in packed.items():
        tensors |= {f"{name}.{key}": one for key, one in gptq_tensors(layer, version, dtype).items()}
    common = Counter(settings_of(layer) for layer in packed.values()).most_common(1)[0][0]
    settings = block_settings(llm, packed)
    dynamic = exceptions(settings, common)
    write_llm(model, folder, tensors, dtype, quantization_config(common, dynamic, version))
    _check(folder, packed, version, dtype)
    return (
        f"{len(packed)} linear layers packed: {_counted(packed)}; the rest of the LLM is "
        f"{str(dtype).removeprefix('torch.')}",
        *_notes(llm, packed, settings, version, dtype),
    )


def block_settings(llm: nn.Module, packed: Mapping[str, QuantizedLinear]) -> dict[str, Settings | None]:
    """Settings of all linear layers of the blocks, by full name; None for those that stay plain."""
    return {
        name: settings_of(packed[name]) if name in packed else None
        for name, module in llm.named_modules()
        if name.startswith("model.layers.")
        and isinstance(module, (nn.Linear, *REPLACEMENTS))
        and not within_replacement(llm, name)
    }


def exceptions(settings: Mapping[str, Settings | None], common: Settings) -> dict[str, dict[str, Any]]:
    """Entries of ``dynamic`` for the layers, by full name, whose settings are not the ``common`` ones."""
    found: dict[str, dict[str, Any]] = {}
    for name, own in settings.items():
        if own == common:
            continue
        parent, _, last = name.rpartition(".")
        known_as = re.escape(last)
        for joined, members in JOINED.items():
            if last in members and _settings_of_joined(settings, parent, joined) == {own}:
                known_as = f"(?:{'|'.join((joined, *members))})"
        sign, values = ("-", {}) if own is None else ("+", own._asdict())
        found[rf"{sign}:^{re.escape(parent)}\.{known_as}$"] = values
    return found


def quantization_config(common: Settings, dynamic: dict[str, Any], version: int) -> dict[str, Any]:
    """The entry ``quantization_config`` of ``config.json``."""
    name = "gptq" if version == 1 else "gptq_v2"
    return {
        "quant_method": "gptq",
        "checkpoint_format": name,
        "format": name,
        **common._asdict(),
        "desc_act": False,  # inputs stay in their order; g_idx ascends
        "lm_head": False,
        "pack_dtype": "int32",
        **({"dynamic": dynamic} if dynamic else {}),
        "meta": {"quantizer": [f"audiolm_compress:{__version__}"]},
    }


def _check(folder: Path, packed: dict[str, QuantizedLinear], version: int, dtype: torch.dtype) -> None:
    """Hold what the file says, by definition, against what the layers compute with."""
    with safe_open(folder / "model.safetensors", framework="pt") as written:
        for name, layer in packed.items():
            own = {key: written.get_tensor(f"{name}.{key}") for key in _TENSORS}
            codes, scales, zeros = stored_parts(layer.shape, layer.stored())
            width = layer.scheme.width(layer.in_features)
            grid = scales.to(dtype).float().repeat_interleave(width, 0)
            expected = grid * (codes - zeros.repeat_interleave(width, 0))
            if not torch.equal(dequantize(own, layer.scheme.bits, version), expected.T):
                raise AudioLMError(f"--to gptq: {name} is not read back as it was written; nothing is kept")


def _notes(
    llm: nn.Module,
    packed: dict[str, QuantizedLinear],
    by_name: Mapping[str, Settings | None],
    version: int,
    dtype: torch.dtype,
) -> list[str]:
    """What a reader would not expect."""
    notes = []
    reasons: Counter[str] = Counter()
    for name, module in llm.named_modules():
        if not isinstance(module, REPLACEMENTS) or name in packed or within_replacement(llm, name):
            continue
        if isinstance(module, QuantizedLinear):
            head = name == HEAD.rpartition(".")[0]
            why = "a quantised head is not what loaders expect" if head else obstacle(module)
        else:
            why = f"GPTQ has no {type(module).__name__}"
        reasons[why] += 1
    notes += [f"{count} modules dequantised to 16 bit: {why}" for why, count in reasons.items()]
    if len(set(by_name.values())) > 1:
        notes.append(
            "layers differ in bits or groups, or some are plain; `dynamic` says where, which GPTQModel, vLLM "
            "and SGLang read, and from_pretrained of transformers does not"
        )
    if unlike := _unlike(by_name):
        notes.append(
            f"vLLM will refuse this checkpoint: it joins query, key and value, and gate and up, which differ "
            f"in {len(unlike)} places, the first {unlike[0]}"
        )
    if any(one is not None and not one.for_marlin for one in by_name.values()):
        notes.append(
            "vLLM runs 2 and 3 bits, asymmetric layers and groups other than 32, 64 and 128 with "
            "quantization='gptq' in float16 only"
        )
    if version == 2:
        notes.append("asymmetric layers need checkpoint_format gptq_v2; loaders that know v1 alone refuse it")
    if rounding := max(_rounding_of_scales(layer, dtype) for layer in packed.values()):
        name = str(dtype).removeprefix("torch.")
        notes.append(
            f"scales do not fit {name} and are rounded, by up to {rounding:.2%}, and weights with them"
        )
    if any(layer.activations == 8 for layer in packed.values()):
        notes.append("inputs of 8 bit, which this package's kernels round to, are not part of the format")
    return notes


def _counted(packed: dict[str, QuantizedLinear]) -> str:
    counts = Counter(settings_of(layer) for layer in packed.values())
    return ", ".join(
        f"{count} of {one.bits} bit, group {one.group_size}, {'symmetric' if one.sym else 'asymmetric'}"
        for one, count in counts.most_common()
    )


def _rounding_of_scales(layer: QuantizedLinear, dtype: torch.dtype) -> float:
    """The largest relative change of a scale in ``dtype``: products of progressive grids need more digits."""
    stored = layer.stored()
    exact = stored["scales"].float() * stored.get("multiples", torch.tensor(1)).float()
    return float(((exact.to(dtype).float() - exact) / exact).abs().max())


def _unlike(settings: Mapping[str, Settings | None]) -> list[str]:
    """Full names under which vLLM joins layers that do not have one and the same form."""
    parents = dict.fromkeys(name.rpartition(".")[0] for name in settings)
    return [
        f"{parent}.{joined}"
        for parent in parents
        for joined in JOINED
        if len(_settings_of_joined(settings, parent, joined)) > 1
    ]


def _settings_of_joined(
    settings: Mapping[str, Settings | None], parent: str, joined: str
) -> set[Settings | None]:
    names = [f"{parent}.{member}" for member in JOINED[joined]]
    return {settings[name] for name in names if name in settings}
