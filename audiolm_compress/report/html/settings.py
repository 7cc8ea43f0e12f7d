"""How much the page may hold."""

from __future__ import annotations

from pydantic import Field, model_validator

from audiolm_compress.settings import Settings, refuse_idle


class PageSettings(Settings):
    """What of the clips goes into report.html; those whose scores changed most come first."""

    clips: int = Field(1000, ge=0, description="at most this many clips are listed; the CSV files hold all")
    audio_clips: int = Field(200, ge=0, description="at most this many clips can be played")
    audio_mib: float = Field(8.0, ge=0, description="size of all their audio in the page, in MiB")

    @model_validator(mode="after")
    def _clips_are_heard(self) -> PageSettings:
        if not self.clips:
            refuse_idle(self, "audio_clips", "audio_mib", beside="clips=0", instead="list clips")
        if not self.audio_clips:
            refuse_idle(self, "audio_mib", beside="audio_clips=0", instead="let clips be played")
        return self
