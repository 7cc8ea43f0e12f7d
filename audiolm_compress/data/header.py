"""What an audio file's header tells, without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import soundfile

from audiolm_compress.data.truncation import truncation


@dataclass(frozen=True)
class Header:
    """One readable audio file.

    Attributes:
        frames: samples of each channel, as far as the header knows.
        rate: samples a second.
        channels: how many.
    """

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.frames / self.rate


def read_header(path: Path) -> tuple[str, Header | None]:
    """(reason, None) why a file cannot be used, as far as shows without decoding it, or ("", header)."""
    try:
        if not path.is_file():
            return ("not a file" if path.exists() else "missing"), None
        if path.stat().st_size == 0:
            return "empty file", None
        cut = truncation(path)
        if cut is not None:
            return cut, None
        with soundfile.SoundFile(path) as file:
            return "", Header(file.frames, file.samplerate, file.channels)
    except soundfile.LibsndfileError as error:
        return f"cannot be decoded as audio ({error.error_string.strip()})", None
    except OSError as error:
        return f"cannot be read ({error.strerror or error})", None
