"""PyTorch's int4 matmuls: weights of four bits multiplied without being unpacked in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.integer_product import Ratios, int_mm_is_exact, multiply, ratios_of
from audiolm_compress.quantization.kernels import Shape, scales_to_store, stored_parts
from audiolm_compress.quantization.packed_linear import Buffers
from audiolm_compress.quantization.packing import pack
from audiolm_compress.quantization.rows import round_rows

_int4_product = torch.ops.aten._weight_int4pack_mm_for_cpu.default


class Int4Cpu:
    """Products of bytes, or for 16-bit inputs PyTorch's int4 matmul and dequantised tiles; bfloat16 only.

    The weights lie in tiles of ``tile`` outputs, each [in, tile / 2] bytes: low nibbles are the first half of
    the tile's outputs, high nibbles the second. Narrower last groups and odd numbers of outputs are filled
    up.
    """

    name = "int4 matmul (CPU)"
    few_rows = 128  # above, dequantised tiles are faster (benchmarks/kernels.py)

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.integer = shape.activations == 8 and shape.scheme.symmetric and int_mm_is_exact()
        width, filled = shape.scheme.width(shape.in_features), -(-shape.in_features // 32) * 32
        sizes = (width, 256, 128, 64, 32) if width in (32, 64, 128, 256) else (256, 128, 64, 32)
        # The product's own group size: the scheme's, or for whole rows the largest that divides them.
        self.group = next(size for size in sizes if size == width or filled % size == 0)
        self.tile = int4_tile()
        self.columns = -(-shape.in_features // self.group) * self.group
        self.outputs = -(-shape.out_features // self.tile) * self.tile

    @staticmethod
    def fits(scheme: Scheme, in_features: int) -> bool:
        """Whether the kernel's group sizes can express the scheme."""
        return scheme.bits == 4 and (
            scheme.width(in_features) == in_features or scheme.group_size in (32, 64, 128)
        )

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """Tiles, and per group and output a scale and the weight of code 8."""
        codes, scales, zeros = stored_parts(self.shape, stored)
        more_columns, more_outputs = self._missing()
        codes = F.pad(codes, (0, more_outputs, 0, more_columns), value=8)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.T.contiguous().to(torch.int32), 1)
        both = torch.stack([scales, (8 - zeros.to(scales.dtype)) * scales], dim=-1)
        both = F.pad(both, (0, 0, 0, more_outputs))
        if len(both) == 1:  # whole rows are several of the product's groups
            both = both.repeat_interleave(self.columns // self.group, 0)
        arranged = {"packed": packed, "scales": both.contiguous()}
        if self.shape.scheme.progressive:
            arranged["unit"] = F.pad(stored["scales"][0], (0, more_outputs), value=1)
        return arranged

    def restore(self, buffers: Buffers) -> dict[str, Tensor]:
        """Undo the tiling."""
        tiles = self._tiles(buffers)
        codes = torch.cat([tiles & 15, tiles >> 4], dim=-1).transpose(0, 1).flatten(1)
        inputs, outputs, scheme = self.shape[:3]
        codes = codes[:inputs, :outputs]
        both = buffers["scales"][: scheme.groups(inputs), :outputs]
        unit = buffers["unit"][:outputs] if scheme.progressive else None
        return _stored_form(scheme, codes, both, unit)

    def linear(self, buffers: Buffers, x: Tensor, *, single: bool) -> Tensor:
        """Products of bytes; for 16-bit inputs the int4 product, or for many one tile after the other."""
        rows, inputs = x.shape
        x = x.contiguous() if inputs == self.columns else F.pad(x, (0, self.columns - inputs))
        if self.integer and not single:
            y = x.new_empty(rows, self.outputs)
            multiply(
                round_rows(x, buffers.get("outliers")),
                self._tiles(buffers),
                self._ratios(buffers),
                y,
            )
        elif rows <= self.few_rows:
            y = _int4_product(x, buffers["packed"], self.group, buffers["scales"])
        else:
            y = x.new_empty(rows, self.outputs)
            for start, tile in self._dense_tiles(buffers):
                y[:, start : start + tile.shape[1]] = x @ tile
        return y if self.outputs == self.shape.out_features else y[:, : self.shape.out_features]

    def dense(self, buffers: Buffers) -> Tensor:
        """All tiles side by side."""
        tiles = [tile.T.clone() for _, tile in self._dense_tiles(buffers)]
        return torch.cat(tiles)[: self.shape.out_features, : self.shape.in_features]

    def _dense_tiles(self, buffers: Buffers) -> Iterator[tuple[int, Tensor]]:
        """Yield (first output, weights [in, tile]); the memory of a tile is used again for the next one."""
        tiles = self._tiles(buffers)
        half = tiles.shape[2]
        signed = torch.empty(tiles.shape[1], half, dtype=torch.int8)
        tile = torch.empty(tiles.shape[1], 2 * half, dtype=buffers["scales"].dtype)
        for index, packed in enumerate(tiles):
            centred = (packed ^ 0x88).view(torch.int8)  # two nibbles of two's complement: code - 8
            torch.bitwise_left_shift(centred, 4, out=signed)
            tile[:, :half] = signed.bitwise_right_shift_(4)
            tile[:, half:] = torch.bitwise_right_shift(centred, 4, out=signed)
            start = index * 2 * half
            scale, offset = buffers["scales"][:, start : start + 2 * half].unbind(-1)
            # Contiguous, or the product takes four times as long.
            grouped = tile.unflatten(0, (-1, self.group)).mul_(scale.contiguous()[:, None])
            if not self.shape.scheme.symmetric:
                grouped.add_(offset.contiguous()[:, None])
            yield start, tile

    def _tiles(self, buffers: Buffers) -> Tensor:
        """The packed bytes as [tiles, in, tile / 2]."""
        return buffers["packed"].view(self.outputs // self.tile, self.columns, self.tile // 2)

    def _ratios(self, buffers: Buffers) -> Ratios:
        """The scales as multiples of units; those of whole rows once."""
        pairs = buffers["scales"][: self.shape.scheme.groups(self.shape.in_features)]
        # The bits of a bfloat16 are the upper ones of a float32, and it is the lower half of its pair.
        scales = (pairs.view(torch.int32).squeeze(-1) << 16).view(torch.float32)
        if not self.shape.scheme.progressive:
            return ratios_of(scales)
        unit = buffers["unit"].float()
        return Ratios(unit, scales.mul_(1 / unit).round_().to(torch.int8), None)

    def _missing(self) -> tuple[int, int]:
        """Inputs and outputs that fill up the last group and the last tile."""
        return self.columns - self.shape.in_features, self.outputs - self.shape.out_features


def _stored_form(scheme: Scheme, codes: Tensor, both: Tensor, unit: Tensor | None) -> dict[str, Tensor]:
    """Codes [in, out] and pairs of scale and offset [groups, out, 2], as they are stored."""
    stored = {"qweight": pack(codes, 4)} | scales_to_store(both[..., 0], unit)
    if not scheme.symmetric:
        zeros = (8 - both[..., 1].float() / both[..., 0].float()).round().to(torch.uint8)
        stored["qzeros"] = pack(zeros.T, 4).T.contiguous()
    return stored


class Int4Cuda:
    """PyTorch's int4 tensor-core matmul, bfloat16; for compute capability 8.0 and newer."""

    name = "int4 matmul (CUDA)"
    inner = 8  # inner k tiles of the arrangement

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.group = shape.scheme.width(shape.in_features)

    @staticmethod
    def fits(shape: Shape, device: torch.device) -> bool:
        """Whether card and shape suit the kernel, without filling up."""
        scheme = shape.scheme
        return (
            torch.cuda.get_device_capability(device) >= (8, 0)
            and scheme.bits == 4
            and scheme.group_size in (32, 64, 128)
            and shape.in_features % max(scheme.group_size, 16 * 8) == 0
            and shape.out_features % 8 == 0
        )

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """The tensor-core arrangement, two codes a byte before it is made."""
        codes, scales, zeros = stored_parts(self.shape, stored)
        codes = codes.T.contiguous()
        pairs = codes[:, ::2] << 4 | codes[:, 1::2]
        both = torch.stack([scales, (8 - zeros.to(scales.dtype)) * scales], dim=-1)
        arranged = {
            "packed": torch._convert_weight_to_int4pack(pairs.contiguous(), self.inner),
            "scales": both.contiguous(),
        }
        if self.shape.scheme.progressive:
            arranged["unit"] = stored["scales"][0].clone()
        return arranged

    def restore(self, buffers: Buffers) -> dict[str, Tensor]:
        """Codes by multiplying unit vectors with scale 1: exact in bfloat16."""
        ones = torch.zeros_like(buffers["scales"])
        ones[..., 0] = 1
        eye = torch.eye(self.shape.in_features, dtype=torch.bfloat16, device=ones.device)
        rows = [
            torch._weight_int4pack_mm(part, buffers["packed"], self.group, ones) for part in eye.split(1024)
        ]
        codes = torch.cat(rows).round().add_(8).to(torch.uint8)
        both = buffers["scales"]
        unit = buffers["unit"] if self.shape.scheme.progressive else None
        return _stored_form(self.shape.scheme, codes, both, unit)

    def linear(self, buffers: Buffers, x: Tensor, *, single: bool) -> Tensor:
        """The int4 product for any number of rows."""
        return torch._weight_int4pack_mm(x.contiguous(), buffers["packed"], self.group, buffers["scales"])

    def dense(self, buffers: Buffers) -> Tensor:
        """Unit vectors through the product."""
        eye = torch.eye(self.shape.in_features, dtype=torch.bfloat16, device=buffers["packed"].device)
        return self.linear(buffers, eye, single=False).T


@lru_cache(maxsize=1)
def int4_tile() -> int:
    """Outputs in a tile of the CPU's int4 arrangement, found by trying; 0 if it is none that we can read."""
    for tile in (64, 32):
        codes = torch.arange(tile * 64, dtype=torch.int32).remainder(13).view(tile, 64)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1).view(64, tile // 2)
        if torch.equal(torch.cat([packed & 15, packed >> 4], dim=1).to(torch.int32), codes.T):
            return tile
    return 0
