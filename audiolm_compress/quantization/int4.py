"""PyTorch's int4 matmuls: weights of four bits multiplied without being unpacked in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.kernels import Buffers, Shape, stored_parts
from audiolm_compress.quantization.packing import pack


class Int4Cpu:
    """PyTorch's int4 matmul for few rows, tile by tile dequantised for many; bfloat16 only.

    The weights lie in tiles of ``tile`` outputs, each [in, tile / 2] bytes: low nibbles are the first half of
    the tile's outputs, high nibbles the second. Narrower last groups and odd numbers of outputs are filled
    up.
    """

    name = "int4 matmul (CPU)"
    few_rows = 24  # above, dequantising pays (benchmarks/kernels.py)

    @staticmethod
    def fits(scheme: Scheme, in_features: int) -> bool:
        """Whether the kernel's group sizes can express the scheme."""
        return scheme.bits == 4 and (
            scheme.width(in_features) == in_features or scheme.group_size in (32, 64, 128)
        )

    def arrange(self, shape: Shape, stored: Buffers) -> dict[str, Tensor]:
        """Tiles, and per group and output a scale and the weight of code 8."""
        codes, scales, zeros = stored_parts(shape, stored)
        width, inner = shape.scheme.width(shape.in_features), self._group(shape)
        columns, outputs = self._padded(shape)
        codes = F.pad(codes, (0, outputs - shape.out_features, 0, columns - shape.in_features), value=8)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.T.contiguous().to(torch.int32), 1)
        both = torch.stack([scales, (8 - zeros.to(scales.dtype)) * scales], dim=-1)
        both = F.pad(both, (0, 0, 0, outputs - shape.out_features))
        # A wider group is several of the kernel's.
        both = both.repeat_interleave(-(-width // inner), 0)[: columns // inner] if inner != width else both
        return {"packed": packed, "scales": both.contiguous()}

    def restore(self, shape: Shape, buffers: Buffers) -> dict[str, Tensor]:
        """Undo the tiling."""
        tiles = self._tiles(shape, buffers)
        codes = torch.cat([tiles & 15, tiles >> 4], dim=-1).transpose(0, 1).flatten(1)
        codes = codes[: shape.in_features, : shape.out_features]
        width, inner = shape.scheme.width(shape.in_features), self._group(shape)
        both = buffers["scales"][:: max(1, width // inner) if shape.scheme.group_size != -1 else None]
        both = both[: shape.scheme.groups(shape.in_features), : shape.out_features]
        scales = both[..., 0].contiguous()
        stored = {"qweight": pack(codes, 4), "scales": scales}
        if not shape.scheme.symmetric:
            zeros = (8 - both[..., 1].float() / scales.float()).round().to(torch.uint8)
            stored["qzeros"] = pack(zeros.T, 4).T.contiguous()
        return stored

    def linear(self, shape: Shape, buffers: Buffers, x: Tensor) -> Tensor:
        """Few rows by the int4 product; many tile by tile, so that a dequantised tile stays in the cache."""
        columns, outputs = self._padded(shape)
        x = F.pad(x, (0, columns - shape.in_features)) if columns != shape.in_features else x.contiguous()
        if len(x) <= self.few_rows:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(
                x, buffers["packed"], self._group(shape), buffers["scales"]
            )
        else:
            y = x.new_empty(len(x), outputs)
            for start, tile in self._dense_tiles(shape, buffers):
                y[:, start : start + tile.shape[1]] = x @ tile
        return y[:, : shape.out_features]

    def dense(self, shape: Shape, buffers: Buffers) -> Tensor:
        """All tiles side by side."""
        tiles = [tile.T.clone() for _, tile in self._dense_tiles(shape, buffers)]
        return torch.cat(tiles)[: shape.out_features, : shape.in_features]

    def _dense_tiles(self, shape: Shape, buffers: Buffers) -> Iterator[tuple[int, Tensor]]:
        """Yield (first output, weights [in, tile]); the memory of a tile is used again for the next one."""
        tiles, inner = self._tiles(shape, buffers), self._group(shape)
        half = tiles.shape[2]
        signed = torch.empty(tiles.shape[1], half, dtype=torch.int8)
        tile = torch.empty(tiles.shape[1], 2 * half, dtype=buffers["scales"].dtype)
        for index, packed in enumerate(tiles):
            centred = (packed ^ 0x88).view(torch.int8)  # two nibbles of two's complement: code - 8
            torch.bitwise_left_shift(centred, 4, out=signed)
            tile[:, :half] = signed.bitwise_right_shift_(4)
            tile[:, half:] = torch.bitwise_right_shift(centred, 4, out=signed)
            start = index * 2 * half
            both = buffers["scales"][:, None, start : start + 2 * half]
            grouped = tile.unflatten(0, (-1, inner)).mul_(both[..., 0])
            if not shape.scheme.symmetric:
                grouped.add_(both[..., 1])
            yield start, tile

    def _tiles(self, shape: Shape, buffers: Buffers) -> Tensor:
        """The packed bytes as [tiles, in, tile / 2]."""
        columns, outputs = self._padded(shape)
        tile = int4_tile()
        return buffers["packed"].view(outputs // tile, columns, tile // 2)

    def _group(self, shape: Shape) -> int:
        """The kernel's group size: the scheme's, or for whole rows the largest that divides them."""
        width = shape.scheme.width(shape.in_features)
        if width in (32, 64, 128, 256):
            return width
        padded = -(-shape.in_features // 32) * 32
        return next(size for size in (256, 128, 64, 32) if padded % size == 0)

    def _padded(self, shape: Shape) -> tuple[int, int]:
        """Inputs and outputs filled up to whole groups and whole tiles."""
        group, tile = self._group(shape), int4_tile()
        return -(-shape.in_features // group) * group, -(-shape.out_features // tile) * tile


class Int4Cuda:
    """PyTorch's int4 tensor-core matmul, bfloat16; for compute capability 8.0 and newer."""

    name = "int4 matmul (CUDA)"
    inner = 8  # inner k tiles of the arrangement

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

    def arrange(self, shape: Shape, stored: Buffers) -> dict[str, Tensor]:
        """The tensor-core arrangement, two codes a byte before it is made."""
        codes, scales, zeros = stored_parts(shape, stored)
        codes = codes.T.contiguous()
        pairs = codes[:, ::2] << 4 | codes[:, 1::2]
        both = torch.stack([scales, (8 - zeros.to(scales.dtype)) * scales], dim=-1)
        return {
            "packed": torch._convert_weight_to_int4pack(pairs.contiguous(), self.inner),
            "scales": both.contiguous(),
        }

    def restore(self, shape: Shape, buffers: Buffers) -> dict[str, Tensor]:
        """Codes by multiplying unit vectors with scale 1: exact in bfloat16."""
        width = shape.scheme.width(shape.in_features)
        ones = torch.zeros_like(buffers["scales"])
        ones[..., 0] = 1
        eye = torch.eye(shape.in_features, dtype=torch.bfloat16, device=ones.device)
        rows = [torch._weight_int4pack_mm(part, buffers["packed"], width, ones) for part in eye.split(1024)]
        codes = torch.cat(rows).round().add_(8).to(torch.uint8)
        both = buffers["scales"]
        stored = {"qweight": pack(codes, 4), "scales": both[..., 0].contiguous()}
        if not shape.scheme.symmetric:
            zeros = (8 - both[..., 1].float() / both[..., 0].float()).round().to(torch.uint8)
            stored["qzeros"] = pack(zeros.T, 4).T.contiguous()
        return stored

    def linear(self, shape: Shape, buffers: Buffers, x: Tensor) -> Tensor:
        """The int4 product for any number of rows."""
        width = shape.scheme.width(shape.in_features)
        return torch._weight_int4pack_mm(x.contiguous(), buffers["packed"], width, buffers["scales"])

    def dense(self, shape: Shape, buffers: Buffers) -> Tensor:
        """Unit vectors through the product."""
        eye = torch.eye(shape.in_features, dtype=torch.bfloat16, device=buffers["packed"].device)
        return self.linear(shape, buffers, eye).T


@lru_cache(maxsize=1)
def int4_tile() -> int:
    """Outputs in a tile of the CPU's int4 arrangement, found by trying; 0 if it is none that we can read."""
    for tile in (64, 32):
        codes = torch.arange(tile * 64, dtype=torch.int32).remainder(13).view(tile, 64)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1).view(64, tile // 2)
        if torch.equal(torch.cat([packed & 15, packed >> 4], dim=1).to(torch.int32), codes.T):
            return tile
    return 0
