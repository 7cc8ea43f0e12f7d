"""The league table of the hackathon that SALMONN's compression started from, as its teams published it.

Its figures come from other hardware, other test data and other decode settings than those of any run, and of
each other: they tell the order of magnitude. Nothing is computed from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

MARK = "published, on other hardware, other data and other decode settings"


@dataclass(frozen=True)
class Published:
    """What a team says of its model.

    Attributes:
        team: who.
        how: main techniques.
        source: where.
        wer: word error rate.
        spider: SPIDEr.
        memory_gib: memory that was counted as the model's.
        ttft_s: to the first token, in seconds.
        tpot_s: per further token.
        note: what a reader must know.
    """

    team: str
    how: str
    source: str
    wer: float | None = None
    spider: float | None = None
    memory_gib: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    note: str = ""


def published() -> tuple[Published, ...]:
    """The rows of published.json, in its order."""
    content: Mapping[str, Any] = json.loads(
        files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    )
    return tuple(Published(**row) for row in content["rows"])
