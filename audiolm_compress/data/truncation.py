"""Does an audio file end before its own header says so?

libsndfile shortens the length of a cut wav or ogg file silently to what is there, and guesses that of an mp3
without a length header, so these are looked at here. Otherwise decoding finds out (``audio.py``).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from audiolm_compress.data.mpeg import mpeg_frames

_UNKNOWN_LENGTH = 0xFFFFFFFF  # written by programs that write into a pipe and cannot return to the header
_CHUNKS = 1000  # before the samples; those of a recorder's notes are some ten
_OGG_PAGE = struct.Struct("<4sBBqIIIB")  # RFC 3533 section 6, up to the number of segments
_OGG_END_OF_STREAM = 0x04
_OGG_TAIL = 2 * (_OGG_PAGE.size + 255 + 255 * 255)  # surely holds the last page

_MPEG_DELAY = 3 * 1152  # an mp3 decoder leaves out up to this many samples of its start and end


def truncation(path: Path) -> str | None:
    """Why a wav, Ogg or MPEG audio file is cut short, or None if it is whole or of another kind.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic == b"RIFF":
            return _riff(file, size)
        if magic == b"OggS":
            file.seek(max(0, size - _OGG_TAIL))
            return _ogg(file.read())
    frames = mpeg_frames(path)
    if frames is not None and frames.missing:
        return f"truncated: {frames.missing} bytes of the last frame are missing"
    return None


def promised_frames(path: Path, told: int) -> int:
    """How many audio frames the file must give; ``told`` is libsndfile's number, which may be a guess."""
    with path.open("rb") as file:
        magic = file.read(26)
    if magic[:4] == b"fLaC":
        # Of STREAMINFO's bits the 36 before its checksum count the samples; 0 is "unknown" (RFC 9639, 8.2).
        known = int.from_bytes(magic[21:26], "big") & 0xFFFFFFFFF != 0
        return told if known else 0
    frames = mpeg_frames(path)
    if frames is None or frames.counted:
        return told
    # Where the bitrate varies and no header counts, libsndfile guesses too short and stops there.
    return frames.samples - _MPEG_DELAY


def _riff(file: BinaryIO, size: int) -> str | None:
    position = 12  # "RIFF", length, "WAVE"
    for _ in range(_CHUNKS):
        if position + 8 > size:
            return None
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        there = size - position - 8
        if name == b"data":
            if length in (0, _UNKNOWN_LENGTH) or length <= there:
                return None
            return f"truncated: the header promises {length} bytes of samples, {there} are there"
        position += 8 + length + length % 2
    return f"damaged: more than {_CHUNKS} chunks before the samples"


def _ogg(tail: bytes) -> str | None:
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < _OGG_PAGE.size:
        return "truncated: the last Ogg page is incomplete"
    _, _, flags, _, _, _, _, segments = _OGG_PAGE.unpack_from(page)
    table = page[_OGG_PAGE.size : _OGG_PAGE.size + segments]
    if len(table) < segments or len(page) < _OGG_PAGE.size + segments + sum(table):
        return "truncated: the last Ogg page is incomplete"
    if not flags & _OGG_END_OF_STREAM:
        return "truncated: the end-of-stream page is missing"
    return None
