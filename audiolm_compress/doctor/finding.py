"""What an examination of this machine says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        state: ``ok``; ``missing``, where something does without; ``problem``, where something does not work.
        found: what is there.
        cost: what its lack costs, as far as it is known or measured; "" if nothing.
        remedy: how to get it.
        essential: whether nothing can be compressed while it is not ``ok``.
    """

    name: str
    state: State
    found: str
    cost: str = ""
    remedy: str = ""
    essential: bool = False
