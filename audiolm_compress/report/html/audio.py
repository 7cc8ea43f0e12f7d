"""Test clips as they are heard inside a page: MP3, which every browser plays, in a ``data:`` address."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiolm_compress.data.audio import try_audio
from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.report.html.settings import PageSettings

# LAME at a constant 32 kbit/s for 16 kHz mono: 4 kB a second, speech without audible damage.
_COMPRESSION = 0.85
HOW_AUDIO_IS_KEPT = "audio: channels mixed to one, 16 kHz, at most 30 s, MP3 of 32 kbit/s"


@dataclass
class AudioShelf:
    """Sounds for a page until the budget is spent.

    Attributes:
        settings: the budget.
        clips: sounds given out.
        characters: their size in the page.
        left_out: sounds that the budget had no room for.
    """

    settings: PageSettings
    clips: int = 0
    characters: int = 0
    left_out: int = 0
    _kept: dict[str, str] = field(default_factory=dict)

    def take(self, path: str) -> tuple[str, str]:
        """The address of a clip's sound, or why there is none: (address, "") or ("", reason)."""
        if path in self._kept:
            return self._kept[path], ""
        if self.clips >= self.settings.audio_clips or self._full(0):
            self.left_out += 1
            return "", "audio left out: the page's budget is spent"
        address, reason = sound(path)
        if reason:
            return "", reason
        if self._full(len(address)):
            self.left_out += 1
            return "", "audio left out: the page's budget is spent"
        self.clips += 1
        self.characters += len(address)
        self._kept[path] = address
        return address, ""

    def _full(self, more: int) -> bool:
        return self.characters + more >= self.settings.audio_mib * 2**20


def sound(path: str) -> tuple[str, str]:
    """One audio file as an address: (address, "") or ("", reason).

    Args:
        path: the file; read by the rules that test clips are read by.
    """
    if "MP3" not in soundfile.available_formats():
        return "", f"audio left out: libsndfile {soundfile.__libsndfile_version__} writes no MP3 (1.1 does)"
    reason, audio = try_audio(Path(path), "mean") if path else ("the clip has no path", None)
    if audio is None:
        return "", f"audio left out: {reason}"
    return _address(audio.waveform.numpy()), ""


def _address(samples: NDArray[np.float32]) -> str:
    stream = io.BytesIO()
    soundfile.write(
        stream,
        samples,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=_COMPRESSION,
    )
    return "data:audio/mpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
