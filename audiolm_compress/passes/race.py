"""Find the best of many by looking at most of them only briefly: successive halving.

All contestants meet on a few clips, the best 1/eta of them on eta times as many, and so on until the clips of
the race are used up (Jamieson and Talwalkar, arXiv:1502.07943; the racing of Maron and Moore 1994). With K
contestants, n clips and h heats that is about h K n / eta^(h-1) answers in the place of K n.

The mean that is raced for is an objective: a loss in units of the metric and a price in the same units,

    objective = mean over clips of (loss_i + price_i),    lower is better

so that equal answers are won by the cheaper contestant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Contestant = TypeVar("Contestant")


@dataclass(frozen=True)
class Outcome:
    """How a contestant did on some clips.

    Attributes:
        figure: the metric.
        losses: float64 [clips], in units of the metric, less is better.
        prices: float64 [clips], in units of the metric.
    """

    figure: float
    losses: NDArray[np.float64]
    prices: NDArray[np.float64]

    @property
    def objectives(self) -> NDArray[np.float64]:
        """Float64 [clips]; their mean is the objective."""
        return self.losses + self.prices

    @property
    def objective(self) -> float:
        """What is raced for; lower is better."""
        return float(self.objectives.mean())


@dataclass(frozen=True)
class Heat(Generic[Contestant]):
    """One contestant in one heat.

    Attributes:
        contestant: who.
        clips: on how many clips, the first of the race.
        outcome: how it did.
        stays: whether it reached the next heat, or was the best of the last.
    """

    contestant: Contestant
    clips: int
    outcome: Outcome
    stays: bool


def heat_sizes(clips: int, first: int, eta: int) -> list[int]:
    """Clips of each heat: all in the last, a 1/eta of it in the one before, at least ``first``.

    >>> heat_sizes(48, 8, 2)
    [12, 24, 48]
    """
    sizes = [clips]
    while sizes[0] // eta >= first:
        sizes.insert(0, sizes[0] // eta)
    return sizes


def contestants(count: int, heats: int, eta: int) -> list[int]:
    """How many run in each heat.

    >>> contestants(25, 3, 2)
    [25, 13, 7]
    """
    running = [count]
    while len(running) < heats:
        running.append(-(-running[-1] // eta))
    return running


def race(
    contestants: Sequence[Contestant],
    outcome: Callable[[Contestant, int], Outcome],
    sizes: Sequence[int],
    eta: int,
) -> list[Heat[Contestant]]:
    """Let contestants race.

    Args:
        contestants: where two are equal, the earlier one is ahead.
        outcome: of a contestant on the first so many clips.
        sizes: clips of each heat, see ``heat_sizes``.
        eta: of how many one stays after a heat.

    Returns:
        Every contestant of every heat, the best one of a heat first; the last heat ranks the finalists.
    """
    found: list[Heat[Contestant]] = []
    running = list(contestants)
    for number, clips in enumerate(sizes, start=1):
        outcomes = [(contestant, outcome(contestant, clips)) for contestant in running]
        outcomes.sort(key=lambda one: one[1].objective)  # stable, so that earlier ones stay ahead
        staying = 1 if number == len(sizes) else -(-len(running) // eta)
        found += [Heat(who, clips, how, place < staying) for place, (who, how) in enumerate(outcomes)]
        running = [who for who, _ in outcomes[:staying]]
    return found
