"""Which width each layer gets, if all of them together may take so many bits: a multiple-choice knapsack.

    minimise sum_i loss_i(b_i)    subject to    sum_i n_i b_i <= average * sum_i n_i

with n_i weights in layer i and one width b_i chosen for each from its table of losses. Dynamic programming
over what is spent beyond the least widths gives the optimum (Kellerer, Pferschy and Pisinger, "Knapsack
Problems", 2004, section 11.5). The budget is counted in units of the greatest common divisor of the layers'
sizes, which in Transformers is a large one: Gemma-2-2B's 182 layers at 3.5 bits are a table of 182 x 1,300.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

_MOST_UNITS = 50_000  # of the budget; sizes without a common divisor are counted more coarsely


def choose_widths(losses: Sequence[Mapping[int, float]], sizes: Sequence[int], average: float) -> list[int]:
    """The widths of least total loss whose mean over all weights is at most ``average``.

    Args:
        losses: of each layer, width in bits -> loss if the layer takes that width.
        sizes: number of weights of each layer.
        average: bits of a weight in the mean.

    Returns:
        A width for each layer. Optimal while the budget is at most 50,000 units; above, costs are rounded up
        to whole units, so that the mean never exceeds ``average`` but may fall short of it by a little.

    Raises:
        ValueError: even the least widths take more than ``average``.

    Example:
        >>> choose_widths([{2: 9.0, 4: 1.0}, {2: 2.0, 4: 1.5}], [100, 100], average=3.0)
        [4, 2]
    """
    tables = [sorted(table.items()) for table in losses]
    unit = math.gcd(*sizes)
    counts = [size // unit for size in sizes]
    least = sum(count * table[0][0] for count, table in zip(counts, tables, strict=True))
    # An average such as 3.3 is not a binary number; what it misses must not cost a layer its width.
    spare = math.floor(average * sum(counts) * (1 + 1e-12)) - least
    if spare < 0:
        raise ValueError(f"the least widths take {least / sum(counts):.3f} bits a weight, above {average}")
    coarse = max(1, -(-spare // _MOST_UNITS))
    capacity = spare // coarse
    best = np.zeros(capacity + 1)  # best[c]: least loss of the layers so far that spend at most c units
    picks = []
    costs = []
    for count, table in zip(counts, tables, strict=True):
        cost = [-(-count * (width - table[0][0]) // coarse) for width, _ in table]
        options = np.full((len(table), capacity + 1), np.inf)
        for option, spent, (_, loss) in zip(options, cost, table, strict=True):
            if spent <= capacity:
                option[spent:] = best[: capacity + 1 - spent] + loss
        pick = options.argmin(0)  # of equal losses the first: the narrower
        best = options[pick, np.arange(capacity + 1)]
        picks.append(pick.astype(np.uint8))
        costs.append(cost)
    widths = []
    for table, taken, cost in zip(reversed(tables), reversed(picks), reversed(costs), strict=True):
        chosen = int(taken[capacity])
        capacity -= cost[chosen]
        widths.append(table[chosen][0])
    return widths[::-1]
