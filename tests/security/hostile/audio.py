"""Audio files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import soundfile

from audiolm_compress.data.audio import load_audio

from ..conftest import Clean
from .kinds import hostile, wav


def audio(clean: Clean, data: bytes, name: str = "clip.wav") -> Path:
    (clean.place / name).write_bytes(data)
    return clean.place / name


@hostile(load_audio, r"clip\.wav: truncated: the header promises 4294967000 bytes")
def wav_that_promises_gigabytes(clean: Clean) -> Path:
    return audio(clean, wav(promised=4_294_967_000))


@hostile(load_audio, r"clip\.wav: (has a sampling rate of 0 Hz|cannot be decoded)")
def wav_without_a_rate(clean: Clean) -> Path:
    return audio(clean, wav(rate=0))


@hostile(load_audio, r"clip\.wav: has a sampling rate of 2147483647 Hz, expected 1000 to 768000")
def wav_padded_to_two_milliard_samples(clean: Clean) -> Path:
    return audio(clean, wav(rate=2**31 - 1))


@hostile(load_audio, r"clip\.wav: (has 1000 channels|cannot be decoded)")
def wav_of_a_thousand_channels(clean: Clean) -> Path:
    return audio(clean, wav(channels=1000, samples=bytes(20_000)))


@hostile(load_audio, r"clip\.wav: cannot be decoded")
def wav_of_65535_channels(clean: Clean) -> Path:
    return audio(clean, wav(channels=65_535, samples=bytes(131_070)))


@hostile(load_audio, r"clip\.au: (cannot be decoded|has 1000000 channels)")
def au_of_a_million_channels(clean: Clean) -> Path:
    return audio(clean, b".snd" + struct.pack(">5I", 24, 4000, 3, 16_000, 10**6) + bytes(4000), "clip.au")


@hostile(load_audio, r"clip\.wav: damaged: more than 1000 chunks")
def wav_of_endless_chunks(clean: Clean) -> Path:
    return audio(clean, b"RIFF" + struct.pack("<I", 2**24) + b"WAVE" + bytes(2**24))


@hostile(load_audio, r"clip\.wav: has 1099511627776 bytes, more than")
def wav_of_a_terabyte(clean: Clean) -> Path:
    file = audio(clean, wav())
    with file.open("r+b") as stream:
        stream.truncate(2**40)  # a hole: no bytes on the disk
    return file


def flac(clean: Clean, seconds: int, total: int) -> Path:
    """Silence at 1 kHz, of which four hours have some kB; ``total`` is what the header counts."""
    file = clean.place / "clip.flac"
    soundfile.write(file, np.zeros(seconds * 1000, np.int16), 1000, subtype="PCM_16")
    data = bytearray(file.read_bytes())
    kept = int.from_bytes(data[21:26], "big") >> 36 << 36
    data[21:26] = (kept | total).to_bytes(5, "big")
    file.write_bytes(data)
    return file


@hostile(load_audio, r"clip\.flac: promises 68719476735 frames, more than 4 hours")
def flac_that_promises_terabytes(clean: Clean) -> Path:
    return flac(clean, 1, 2**36 - 1)


@hostile(load_audio, r"clip\.flac: goes on for more than 4 hours")
def flac_of_endless_silence(clean: Clean) -> Path:
    return flac(clean, 4 * 3600 + 600, 0)


@hostile(load_audio, r"clip\.raw: has no header")
def audio_without_a_header(clean: Clean) -> Path:
    return audio(clean, bytes(range(256)) * 10, "clip.raw")


@hostile(load_audio, r"clip\.wav: not a file")
def device_as_audio(clean: Clean) -> Path:
    (clean.place / "clip.wav").symlink_to("/dev/zero")
    return clean.place / "clip.wav"
