"""The dynamic programme finds what trying every combination finds."""

from __future__ import annotations

import itertools
import random

import pytest

from audiolm_compress.quantization.knapsack import choose_widths


def total(losses: list[dict[int, float]], widths: list[int]) -> float:
    return sum(table[width] for table, width in zip(losses, widths, strict=True))


def mean(sizes: list[int], widths: list[int]) -> float:
    return sum(size * width for size, width in zip(sizes, widths, strict=True)) / sum(sizes)


@pytest.mark.parametrize("seed", range(12))
def test_no_other_combination_is_better(seed: int) -> None:
    """Losses of any shape, some layers with fewer choices, sizes with and without a common divisor."""
    chance = random.Random(seed)
    choices = [sorted(chance.sample([2, 3, 4, 8], chance.randint(2, 4))) for _ in range(6)]
    losses = [{width: chance.random() * 4.0**-width for width in some} for some in choices]
    unit = chance.choice([1, 64])
    sizes = [unit * chance.randint(1, 9) for _ in choices]
    average = max(chance.uniform(2.2, 5.0), mean(sizes, [some[0] for some in choices]))
    widths = choose_widths(losses, sizes, average)
    allowed = [c for c in itertools.product(*choices) if mean(sizes, list(c)) <= average * (1 + 1e-12)]
    assert tuple(widths) in allowed
    assert total(losses, widths) == pytest.approx(min(total(losses, list(c)) for c in allowed), rel=1e-12)


def test_a_mean_that_is_no_binary_number_is_reached() -> None:
    """3.3 times 10 weights are 33 bits, though the product is a little less in floating point."""
    assert choose_widths([{3: 1.0, 4: 0.0}, {3: 1.0, 4: 0.0}], [7, 3], average=3.3) == [3, 4]


def test_of_equal_losses_the_narrower_is_taken() -> None:
    assert choose_widths([{2: 0.0, 8: 0.0}], [5], average=8.0) == [2]


def test_large_sizes_without_a_divisor_never_exceed_the_mean() -> None:
    chance = random.Random(0)
    sizes = [chance.randrange(10**7, 10**8) for _ in range(40)]
    losses = [{width: chance.random() * 4.0**-width for width in (2, 3, 4, 8)} for _ in sizes]
    reached = mean(sizes, choose_widths(losses, sizes, average=3.5))
    assert 3.49 < reached <= 3.5


def test_an_average_below_the_least_widths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"least widths take 3\.500 bits a weight, above 3\.2"):
        choose_widths([{3: 1.0, 4: 0.5}, {4: 1.0, 8: 0.0}], [10, 10], average=3.2)
