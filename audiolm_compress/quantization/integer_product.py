"""Many positions times packed 4-bit weights: products of bytes, made of the packed weights on the way.

A dense product of 16-bit numbers takes longer than one of bytes, and making 16-bit weights of packed
ones costs as much again. So the inputs are rounded to 8 bit row by row, and the codes become bytes by
integer arithmetic alone:

    x[r, i] = a_r * c[r, i],                 |c| <= 127
    w[o, i] = u_o * m[g(i), o] * q[o, i],    q = code - 8 in -8 .. 7
    y[r, o] = a_r * u_o * sum_i c[r, i] * (m[g(i), o] * q[o, i])

The scale of a group is m of the output's unit u; m is a multiple of 1/16 and m * q a byte, so that what a
group's scale loses is at most 1/32 of u, where the largest group's scale is 15.9 u. Bytes exist for some
hundred outputs at a time, in memory that is used again for the next.

A few inputs of LLMs are far larger than all others and would leave these with few levels. Where calibration
has named them, they get 15 bits and do not count for a_r: c = 128 h + l, and the product of the h with these
few rows of w is added, 128 times.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from audiolm_compress.quantization.rows import Rounded

_CHUNK = 2_500_000  # weights that are bytes at a time: in the shared cache, and few enough calls
_MOST_SIXTEENTHS = 254  # 8 * 254 / 16 = 127
_SIGNS = -0x7777777777777778  # 0x88 in each of eight bytes


@lru_cache(maxsize=1)
def int_mm_is_exact() -> bool:
    """Whether sums of ``torch._int_mm`` are right on this CPU: some products of bytes saturate at 16 bit."""
    for rows, inputs, outputs in ((1, 64, 64), (3, 65, 17), (33, 320, 200)):
        codes = torch.full((rows, inputs), 127, dtype=torch.int8)
        signs = torch.ones(outputs, dtype=torch.int8)
        signs[::3] = -1
        weight = (signs * 127).expand(inputs, outputs)
        expected = (signs.to(torch.int32) * (127 * 127 * inputs)).expand(rows, outputs)
        try:
            for arranged in (weight.contiguous(), weight.T.contiguous().T):
                if not torch.equal(torch._int_mm(codes, arranged), expected):
                    return False
        except RuntimeError:  # built without it
            return False
    return True


class Ratios(NamedTuple):
    """Group scales as multiples of a unit per output.

    Attributes:
        unit: float32, [out].
        whole: int8, [groups, out]; None where the unit is the scale of all groups.
        sixteenths: int8, [groups, out], 0 to 15, to be added to ``whole``; None if there are none.
    """

    unit: Tensor
    whole: Tensor | None
    sixteenths: Tensor | None


def ratios_of(scales: Tensor) -> Ratios:
    """The nearest multiples for ``scales`` float32 [groups, out]; a single group keeps its scale as it is."""
    if len(scales) == 1:
        return Ratios(scales[0], None, None)
    unit = torch.maximum(scales.amax(0), scales.amin(0).neg_()).mul_(16 / _MOST_SIXTEENTHS)
    ratios = (scales * (16 / unit)).round_().to(torch.int16)
    return Ratios(unit, (ratios >> 4).to(torch.int8), (ratios & 15).to(torch.int8))


def multiply(x: Rounded, tiles: Tensor, ratios: Ratios, out: Tensor) -> None:
    """Write the product into ``out`` [rows, tiles * tile].

    Args:
        x: rows of as many inputs as a tile has.
        tiles: uint8 [tiles, in, tile / 2]; low nibbles are codes of the first half of a tile's outputs, high
            nibbles of the second.
        ratios: scales of all groups and outputs.
        out: any floating dtype.
    """
    count, inputs, half = tiles.shape
    rows = len(out)
    step = max(1, _CHUNK // (inputs * 2 * half))
    step = -(-count // -(-count // step))  # chunks of one size
    memory = _Memory(inputs, step, half, ratios, tiles.device)
    for start in range(0, count, step):
        stop = min(start + step, count)
        weight = memory.expand(tiles[start:stop], ratios, start)
        part = slice(start * 2 * half, stop * 2 * half)
        # Within a chunk all first halves of tiles come before all second ones; to be undone at the end.
        unit = _halves_apart(ratios.unit[part], half).flatten()
        y = x.times(weight).float().mul_(unit).mul_(x.scales)
        out[:, part].view(rows, stop - start, 2, half).copy_(y.view(rows, 2, -1, half).transpose(1, 2))


class _Memory:
    """What is used for one chunk after the other."""

    def __init__(self, inputs: int, tiles: int, half: int, ratios: Ratios, device: torch.device) -> None:
        size = inputs * tiles * half
        fine = ratios.sixteenths is not None
        self.packed, self.signed, self.shifted, self.both = (
            torch.empty(count, dtype=torch.int8, device=device)
            for count in (size, size, size * fine, 2 * size)
        )

    def expand(self, tiles: Tensor, ratios: Ratios, first: int) -> Tensor:
        """``m * q`` as int8 [in, 2 * tiles * half], for tiles from ``first`` on; valid until the next."""
        count, inputs, half = tiles.shape
        width = count * half
        packed = self.packed[: inputs * width]
        packed.view(inputs, count, half).copy_(tiles.transpose(0, 1))
        words = packed.view(torch.int64)
        words.bitwise_xor_(_SIGNS)  # two nibbles of two's complement: code - 8
        both = self.both[: 2 * inputs * width].view(inputs, 2, width)
        if ratios.whole is None:
            torch.bitwise_right_shift(packed.view(inputs, width), 4, out=both[:, 1])
            words.bitwise_left_shift_(4)
            torch.bitwise_right_shift(packed.view(inputs, width), 4, out=both[:, 0])
            return both.view(inputs, -1)
        groups = len(ratios.whole)
        part = slice(first * 2 * half, (first + count) * 2 * half)
        whole = _halves_apart(ratios.whole[:, part], half)
        signed = self.signed[: inputs * width]
        grouped = signed.view(groups, -1, width)
        for side in (1, 0):
            if side == 0:
                words.bitwise_left_shift_(4)  # what spills into the next byte is shifted out below
            torch.bitwise_right_shift(packed, 4, out=signed)
            target = both[:, side].unflatten(0, (groups, -1))
            if ratios.sixteenths is None:
                torch.mul(grouped, whole[:, side, None], out=target)
                continue
            sixteenths = _halves_apart(ratios.sixteenths[:, part], half)
            shifted = self.shifted[: inputs * width]
            torch.mul(grouped, sixteenths[:, side, None], out=shifted.view(groups, -1, width))
            shifted.add_(8).bitwise_right_shift_(4)
            torch.addcmul(shifted.view_as(grouped), grouped, whole[:, side, None], out=target)
        return both.view(inputs, -1)


def _halves_apart(values: Tensor, half: int) -> Tensor:
    """[..., tiles * 2 * half] -> contiguous [..., 2, tiles * half]: first halves, then second ones."""
    apart = values.unflatten(-1, (-1, 2, half)).transpose(-3, -2)
    return apart.contiguous().flatten(-2)
