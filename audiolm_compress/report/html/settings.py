"""How much the page may hold."""

from __future__ import annotations

from pydantic import Field

from audiolm_compress.settings import Settings


class PageSettings(Settings):
    """What of the clips goes into report.html; those whose scores changed most come first."""

    clips: int = Field(1000, ge=0, description="at most this many clips are listed; the CSV files hold all")
    audio_clips: int = Field(200, ge=0, description="at most this many clips can be played")
    audio_mib: float = Field(8.0, ge=0, description="size of all their audio in the page, in MiB")
