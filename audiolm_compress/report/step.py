"""What one pass did, as a report keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audiolm_compress.passes.base import Pass, PassReport


@dataclass(frozen=True)
class Step:
    """One pass of a recipe.

    Attributes:
        name: as in the recipe, such as ``gptq``.
        settings: its entry with all defaults.
        changed: False if the model came out as it went in; the summary says why.
        summary: one sentence.
        figures: totals.
        modules: a row per changed module.
        notes: every skip, fall-back or choice made for the user.
        seconds: wall time.
        weight_bytes: of each part of the model after the pass.
    """

    name: str
    settings: Mapping[str, Any]
    changed: bool
    summary: str
    figures: Mapping[str, Any]
    modules: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    seconds: float
    weight_bytes: Mapping[str, int]

    @classmethod
    def of(cls, entry: Pass, done: PassReport, seconds: float, weight_bytes: Mapping[str, int]) -> Step:
        """The record of ``entry`` after it was applied."""
        return cls(
            name=entry.kind,
            settings=entry.model_dump(mode="json", by_alias=True, exclude={"kind"}),
            changed=done.changed,
            summary=done.summary,
            figures=dict(done.figures),
            modules=[dict(row) for row in done.modules],
            notes=list(done.notes),
            seconds=seconds,
            weight_bytes=dict(weight_bytes),
        )
