"""The tensors of a GGUF file: written one after the other, and read back.

A tensor is made when its turn comes and forgotten: memory holds one beside the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from audiolm_compress.errors import AudioLMError
from audiolm_compress.export.gguf_blocks import BLOCK, Blocks

if TYPE_CHECKING:
    import gguf

# Of a block's largest weight: how far a weight may be from what was written. Half a step, for q4_0 a whole
# one as its longer side reaches further, and the rounding of the scale to float16.
ROUNDED = {"q8_0": 1 / 254 + 2**-11, "q4_0": 1 / 8 + 2**-11}
_ROWS = 8192  # compared at a time: in float32 the embedding of a vocabulary of 256k takes gigabytes


class Planned(NamedTuple):
    """A tensor of the file: its name there, shape, type, what makes it, and its integers if it keeps them."""

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    make: Callable[[], Tensor]
    blocks: Callable[[], Blocks] | None = None

    def made(self) -> Tensor | Blocks:
        """What goes into the file."""
        return self.make() if self.blocks is None else self.blocks()


def write_tensors(writer: gguf.GGUFWriter, planned: list[Planned]) -> None:
    """Write the file: its head, for which sizes are enough, then tensor after tensor.

    Raises:
        AudioLMError: a tensor is not of its shape, or has numbers that float16 cannot hold.
    """
    import gguf
    import numpy as np

    for one in planned:
        size, unit = gguf.GGML_QUANT_SIZES[one.type][::-1]
        count = torch.Size(one.shape).numel()
        writer.add_tensor_info(
            one.name, one.shape, np.dtype(np.float32), count // unit * size, raw_dtype=one.type
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in planned:
            made = one.made()
            shape = (made.integers if isinstance(made, Blocks) else made).shape
            if shape != one.shape:
                raise AudioLMError(
                    f"--to gguf: {one.name} is {list(shape)}, the LLM's config says {list(one.shape)}; "
                    "llama.cpp knows one width for all layers"
                )
            if isinstance(made, Blocks):
                writer.write_tensor_data(made.packed(one.type.name.lower()).numpy())
                continue
            if one.type is gguf.GGMLQuantizationType.F16:
                _require_float16(one.name, made)
            writer.write_tensor_data(gguf.quants.quantize(made.float().numpy(), one.type))
    finally:
        writer.close()


def check(file: Path, planned: list[Planned]) -> None:
    """Read a file and hold it against what it was made of.

    Raises:
        AudioLMError: a tensor is not there, not finite, or further off than its type's rounding.
    """
    import gguf

    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for one in planned:
        read, kind = found.pop(one.name), one.type.name.lower()
        made = one.made()
        for begin in range(0, one.shape[0], _ROWS):
            rows = slice(begin, begin + _ROWS)
            values = torch.tensor(gguf.quants.dequantize(read.data[rows], read.tensor_type))
            if isinstance(made, Blocks):
                good = torch.equal(values, Blocks(made.integers[rows], made.scales[rows]).values())
            else:
                good = _is_rounded(values, made[rows].float(), kind)
            if not (good and values.isfinite().all()):
                raise AudioLMError(f"--to gguf: {one.name} is not read back as it was written in {kind}")
    assert not found, found


def _require_float16(name: str, tensor: Tensor) -> None:
    largest = max(abs(one.item()) for one in tensor.aminmax())
    if largest > torch.finfo(torch.float16).max:
        raise AudioLMError(
            f"--to gguf: {name} has numbers up to {largest:.3g}, which f16 cannot hold; give --gguf-type bf16"
        )


def _is_rounded(values: Tensor, tensor: Tensor, kind: str) -> bool:
    """Whether ``values`` are those of ``tensor`` float32 [..., width] up to the rounding of a type."""
    if kind not in ROUNDED:
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
        return torch.equal(values, tensor.to(dtype).float())
    blocks = tensor.unflatten(-1, (-1, BLOCK))
    off = (values.unflatten(-1, (-1, BLOCK)) - blocks).abs()
    return bool((off <= ROUNDED[kind] * blocks.abs().amax(-1, keepdim=True)).all())
