"""The frames of an MPEG audio (mp3) file: is the last one whole, and does the first one count them?"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

# Layer III, ISO 11172-3 and 13818-3: kbit/s by index, for MPEG 1 and for its halved rates.
_KILOBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_ID3V1_BYTES = 128
_HEADER_REACH = 64  # a length header lies this close to the beginning of the first frame


@dataclass(frozen=True)
class MpegFrames:
    """What the chain of frames says.

    Attributes:
        missing: bytes that the last frame lacks; 0 if it is whole.
        counted: the first frame holds a Xing, Info or VBRI header, which counts the frames.
        samples: of all frames, per channel.
    """

    missing: int
    samples: int
    counted: bool


def mpeg_frames(path: Path) -> MpegFrames | None:
    """Follow the frames of an mp3 file; None if it is none, or begins as only a decoder can follow."""
    with path.open("rb") as file:
        if not _may_be_mpeg(file.read(3)):
            return None
        # Mapped, not read: only the headers of the frames are looked at.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _followed(content)


def _followed(content: mmap.mmap) -> MpegFrames | None:
    start = position = _after_id3v2(content)
    end = len(content) - (_ID3V1_BYTES if content[-_ID3V1_BYTES:].startswith(b"TAG") else 0)
    samples = 0
    while position + 4 <= end:
        frame = _frame(content[position : position + 4])
        if frame is None:  # another tag, or a stream that only a decoder can follow
            break
        position += frame[0]
        samples += frame[1]
    if position == start:
        return None
    return MpegFrames(max(0, position - end), samples, _counted(content, start))


def _may_be_mpeg(magic: bytes) -> bool:
    return magic == b"ID3" or (len(magic) == 3 and magic[0] == 0xFF and magic[1] & 0xE0 == 0xE0)


def _after_id3v2(content: mmap.mmap) -> int:
    """Where an ID3v2 tag ends: 10 bytes of header, then a length in four groups of 7 bits."""
    if content[:3] != b"ID3":
        return 0
    a, b, c, d = content[6:10].ljust(4, b"\0")
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def _frame(header: bytes) -> tuple[int, int] | None:
    """(bytes, samples) of the layer III frame that begins with these four bytes; None if none does."""
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    synchronised = header[0] == 0xFF and header[1] & 0xE0 == 0xE0
    if not synchronised or version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
        return None
    first = version == 3
    kilobits = (_KILOBITS_1 if first else _KILOBITS_2)[bitrate]
    samples = 1152 if first else 576
    return samples // 8 * kilobits * 1000 // _RATES[version][rate] + padding, samples


def _counted(content: mmap.mmap, start: int) -> bool:
    head = content[start : start + _HEADER_REACH]
    return any(name in head for name in (b"Xing", b"Info", b"VBRI"))
