"""The base of every recipe entry."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen description: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
