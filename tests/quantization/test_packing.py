from __future__ import annotations

import pytest
import torch

from audiolm_compress.quantization.packing import pack, packed_rows, unpack


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_exact_and_no_larger_than_needed(bits: int, length: int) -> None:
    codes = torch.randint(0, 2**bits, (length, 7), dtype=torch.uint8)
    words = pack(codes, bits)
    assert words.shape == (packed_rows(length, bits), 7)
    assert words.dtype == torch.int32
    assert words.shape[0] * 32 < length * bits + 32 * bits  # less than one run of padding
    assert torch.equal(unpack(words, bits, length), codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_is_a_little_endian_bit_stream(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (64, 1), dtype=torch.uint8)
    number = sum(int(code) << (bits * k) for k, code in enumerate(codes[:, 0]))
    expected = [number >> (32 * i) & 0xFFFFFFFF for i in range(2 * bits)]
    assert [int(word) & 0xFFFFFFFF for word in pack(codes, bits)[:, 0]] == expected
