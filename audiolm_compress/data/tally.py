"""How values are distributed, in memory that does not grow with their number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_LARGEST = 1e6


@dataclass
class Tally:
    """Counts of values on a grid: hundredths below 10, then three digits, so that there are some 5000 cells.

    Whole numbers below 1000 (words of a text) are counted exactly; of others, number, sum, least and largest
    are exact and quantiles within 1 % or 0.01. No value below a whole number is counted as that number, so
    that whole numbers below 1000 may be edges. Beyond a million all is one cell.
    """

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    largest: float = -math.inf
    _cells: Counter[float] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        """Count one more value, at least zero."""
        self.count += 1
        self.total += value
        self.least = min(self.least, value)
        self.largest = max(self.largest, value)
        held = min(value, _LARGEST)
        digits = 2 if held < 10 else 2 - math.floor(math.log10(held))
        cell = round(held, digits)
        if cell > held and cell == math.floor(cell):
            cell = round(cell - 10**-digits, digits)
        self._cells[cell] += 1

    def quantile(self, share: float) -> float:
        """The smallest value that at least ``share`` of all do not exceed; NaN without values.

        >>> tally = Tally()
        >>> for value in (3, 1, 2, 4): tally.add(value)
        >>> tally.quantile(0.5), tally.quantile(0.75), tally.quantile(1)
        (2, 3, 4)
        """
        wanted, seen = share * self.count, 0
        for value in sorted(self._cells):
            seen += self._cells[value]
            if seen >= wanted:
                return value
        return math.nan

    def between(self, edges: Sequence[float]) -> list[int]:
        """How many lie from each edge up to, and without, the next; the last is open above."""
        found = [0] * len(edges)
        for value, count in self._cells.items():
            place = sum(value >= edge for edge in edges) - 1
            if place >= 0:
                found[place] += count
        return found

    def figures(self) -> dict[str, Any]:
        """Count, sum, mean, extremes and quantiles; only the count where there are no values."""
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "sum": round(self.total, 3),
            "mean": round(self.total / self.count, 4),
            "least": self.least,
            "quantiles": {f"{share:g}": self.quantile(share) for share in (0.05, 0.25, 0.5, 0.75, 0.95)},
            "largest": self.largest,
        }
