"""What an audio file's header tells, without decoding it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import soundfile

from audiolm_compress.data.truncation import promised_frames, truncation, unread

# What a header may say. Shorter clips are padded to a second and arrays have a place for every channel, so
# that either number would become memory; and a few bytes of flac stand for hours of silence.
MOST_HOURS = 4
_RATES = (1_000, 768_000)
_CHANNELS = 64
_BYTES = 4 * 2**30  # the most that a wav can have


@dataclass(frozen=True)
class Header:
    """One readable audio file.

    Attributes:
        frames: samples of each channel; None where the header does not tell, as in a flac that was piped.
        rate: samples a second.
        channels: how many.
    """

    frames: int | None
    rate: int
    channels: int

    @property
    def seconds(self) -> float | None:
        """Length of the clip, if it is known."""
        return None if self.frames is None else self.frames / self.rate


def read_header(path: Path) -> tuple[str, Header | None]:
    """(reason, None) why a file cannot be used, as far as shows without decoding it, or ("", header)."""
    try:
        if not path.is_file():
            return ("not a file" if path.exists() else _missing(path)), None
        if path.stat().st_size == 0:
            return "empty file", None
        if path.stat().st_size > _BYTES:
            return f"has {path.stat().st_size} bytes, more than {_BYTES}; cut it into clips", None
        if path.suffix.lower() == ".raw":
            return "has no header that tells its sampling rate; save it as wav", None
        cut = truncation(path)
        if cut is not None:
            return cut, None
        with soundfile.SoundFile(path) as file:
            header = Header(promised_frames(path, file.frames), file.samplerate, file.channels)
            reason = _problem(header) or unread(path, file.frames)
            return reason, None if reason else header
    except soundfile.LibsndfileError as error:
        return f"cannot be decoded as audio ({error.error_string.strip()})", None
    except OSError as error:
        return f"cannot be read ({error.strerror or error})", None


def most_frames(rate: int) -> int:
    """Frames of the longest clip that is read, at ``rate`` samples a second."""
    return MOST_HOURS * 3600 * rate


def _missing(path: Path) -> str:
    """An archive packed on a Mac may spell an accented letter as two characters, an annotation as one."""
    for form in () if path.name.isascii() else ("NFC", "NFD"):
        if path.with_name(unicodedata.normalize(form, path.name)).is_file():
            return f"missing: a file of this name is there, but written in Unicode's {form}; rename it"
    return "missing"


def _problem(header: Header) -> str:
    if not _RATES[0] <= header.rate <= _RATES[1]:
        return f"has a sampling rate of {header.rate} Hz, expected {_RATES[0]} to {_RATES[1]}"
    if header.channels > _CHANNELS:
        return f"has {header.channels} channels, expected at most {_CHANNELS}"
    if (header.frames or 0) > most_frames(header.rate):
        return f"promises {header.frames} frames, more than {MOST_HOURS} hours; cut it into clips"
    return ""
