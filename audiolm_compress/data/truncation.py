"""Does an audio file end before its own header says so?

libsndfile shortens the length of a cut wav, w64, aiff, au, sph or ogg file silently to what is there, and
guesses that of an mp3 without a length header, so these are looked at here. Otherwise decoding finds out
(``audio.py``).
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from audiolm_compress.data.mpeg import mpeg_frames

_UNKNOWN_LENGTH = 0xFFFFFFFF  # written by programs that write into a pipe and cannot return to the header
_UNKNOWN_IN_W64 = 2**63 - 1  # as ffmpeg's begin with
_MOST_CHUNKS = 1000  # before the samples; those of a recorder's notes are some ten
_OGG_PAGE = struct.Struct("<4sBBqIIIB")  # RFC 3533 section 6, up to the number of segments
_OGG_END_OF_STREAM = 0x04
_OGG_TAIL = 2 * (_OGG_PAGE.size + 255 + 255 * 255)  # surely holds the last page

_MPEG_DELAY = 3 * 1152  # an mp3 decoder leaves out up to this many samples of its start and end


@dataclass(frozen=True)
class _Chunks:
    """How a file of chunks is laid out.

    Attributes:
        head: struct of a chunk's name and length.
        first: place of the first chunk.
        samples: what the name of the chunk of samples begins with.
        align: chunks begin at multiples of so many bytes.
        own: bytes of the head that the length counts too.
    """

    head: str
    first: int
    samples: bytes = b"data"
    align: int = 2
    own: int = 0


_CHUNKED = {
    b"RIFF": _Chunks("<4sI", 12),
    b"RIFX": _Chunks(">4sI", 12),
    b"RF64": _Chunks("<4sI", 12),  # EBU Tech 3306: lengths beyond 32 bits are in a chunk "ds64"
    b"FORM": _Chunks(">4sI", 12, b"SSND"),
    b"riff": _Chunks("<16sQ", 40, align=8, own=24),  # Sony's w64: names are GUIDs
}
_NIST_FIELD = re.compile(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d{1,18})\s*$", re.MULTILINE)


def truncation(path: Path) -> str | None:
    """Why a wav, w64, aiff, au, sph, Ogg or mp3 file is cut short; None if it is whole or of another kind.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic in _CHUNKED:
            return _chunked(file, size, _CHUNKED[magic])
        if magic == b".snd":
            start, length = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
            return _missing(start, length, size)
        if magic == b"NIST":
            return _nist(file, size)
        if magic == b"OggS":
            file.seek(max(0, size - _OGG_TAIL))
            return _ogg(file.read())
    frames = mpeg_frames(path)
    if frames is not None and frames.missing:
        return f"truncated: {frames.missing} bytes of the last frame are missing"
    return None


def promised_frames(path: Path, told: int) -> int | None:
    """How many audio frames the file must give; None if its header does not know.

    Args:
        path: of the file.
        told: libsndfile's number, which is a very large one for "unknown".
    """
    with path.open("rb") as file:
        magic = file.read(26)
    # Of STREAMINFO's bits the 36 before its checksum count the samples; 0 is "unknown" (RFC 9639, 8.2).
    unknown = magic[:4] == b"fLaC" and int.from_bytes(magic[21:26], "big") & 0xFFFFFFFFF == 0
    return None if unknown else told


def unread(path: Path, told: int) -> str:
    """Why libsndfile would stop before the end of an mp3; "" if it reads all.

    Where the bitrate varies and no header counts the frames, it guesses too few and stops there.

    Args:
        path: of the file.
        told: libsndfile's number of audio frames.
    """
    frames = mpeg_frames(path)
    if frames is None or frames.counted or told >= frames.samples - _MPEG_DELAY:
        return ""
    return (
        f"cut short by its decoder: only {told} of its {frames.samples} frames could be read, as its bitrate "
        "varies and no header counts them; `ffmpeg -i FILE -c copy NEW.mp3` writes such a header"
    )


def _chunked(file: BinaryIO, size: int, form: _Chunks) -> str | None:
    position, large = form.first, 0
    head = struct.Struct(form.head)
    for _ in range(_MOST_CHUNKS):
        if position + head.size > size:
            return None
        file.seek(position)
        name, length = head.unpack(file.read(head.size))
        if name.startswith(form.samples):
            known = large if length in (_UNKNOWN_LENGTH, _UNKNOWN_IN_W64) else length
            return _missing(position + head.size, known - form.own, size) if known else None
        if name == b"ds64":
            _, large = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        length = max(length - form.own, 0)
        position += head.size + length + -length % form.align
    return f"damaged: more than {_MOST_CHUNKS} chunks before the samples"


def _nist(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    lines = file.read(1024).split(b"\n")
    start = int(lines[1]) if len(lines) > 1 and lines[1].strip().isdigit() else 1024
    found = {name: int(value) for name, value in _NIST_FIELD.findall(b"\n".join(lines))}
    return _missing(start, math.prod(found.values()), size) if len(found) == 3 else None


def _missing(start: int, length: int, size: int) -> str | None:
    """What samples of ``length`` bytes lack that begin at ``start`` of a file of ``size`` bytes."""
    there = max(0, size - start)
    if length == _UNKNOWN_LENGTH or length <= there:
        return None
    return f"truncated: the header promises {length} bytes of samples, {there} are there"


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
