"""The stored form of integer codes: a little-endian bit stream in 32-bit words along the first axis.

32 codes of b bits fill b words. For 2, 4 and 8 bits that is what GPTQ checkpoints call ``qweight``, and for 3
bits too: code k of a run of 32 sits in bits 3k to 3k+2 of 96, some codes straddling two words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RUN = 32  # codes that fill whole words at any number of bits


def packed_rows(length: int, bits: int) -> int:
    """Words that hold ``length`` codes."""
    return -(-length // RUN) * bits


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` [length, n] (integers below 2**bits) into int32 [packed_rows(length, bits), n]."""
    length, n = codes.shape
    runs = F.pad(codes, (0, 0, 0, -length % RUN)).reshape(-1, RUN, n).to(torch.int64)
    words = runs.new_zeros(len(runs), bits + 1, n)  # one more word takes the (empty) spill of the last code
    for k in range(RUN):
        word, shift = divmod(k * bits, 32)
        shifted = runs[:, k] << shift
        words[:, word] |= shifted & 0xFFFFFFFF
        words[:, word + 1] |= shifted >> 32
    words = words[:, :bits].reshape(-1, n)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: Tensor, bits: int, length: int) -> Tensor:
    """The codes in ``words``; uint8, shape [length, n]."""
    n = words.shape[1]
    runs = words.reshape(-1, bits, n)
    codes = torch.empty(len(runs), RUN, n, dtype=torch.uint8, device=words.device)
    mask = 2**bits - 1
    for k in range(RUN):
        word, shift = divmod(k * bits, 32)
        code = runs[:, word] >> shift  # arithmetic: the mask removes what the sign drags in
        if shift + bits > 32:
            low = 32 - shift
            code = (code & (2**low - 1)) | (runs[:, word + 1] << low)
        codes[:, k] = code & mask
    return codes.reshape(-1, n)[:length]
