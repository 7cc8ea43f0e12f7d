"""Successive halving spends its clips on the promising, and finds who is best."""

from __future__ import annotations

from collections import Counter

import numpy as np

from audiolm_compress.passes.race import Outcome, contestants, heat_sizes, race


def test_heats_grow_to_all_clips() -> None:
    assert heat_sizes(48, 8, 2) == [12, 24, 48]
    assert heat_sizes(7, 8, 2) == [7]
    assert contestants(25, 3, 2) == [25, 13, 7]


def test_the_best_is_found_and_the_others_are_looked_at_briefly() -> None:
    generator = np.random.default_rng(0)
    quality = generator.permutation(np.linspace(0.0, 3.0, 16))
    noise = generator.normal(0, 0.3, (16, 32))
    looked: Counter[int] = Counter()

    def outcome(one: int, clips: int) -> Outcome:
        looked[one] = max(looked[one], clips)
        losses = quality[one] + noise[one, :clips]
        return Outcome(float(losses.mean()), losses, np.zeros(clips))

    heats = race(range(16), outcome, [8, 16, 32], 2)
    assert Counter(heat.clips for heat in heats) == {8: 16, 16: 8, 32: 4}
    (winner,) = (heat.contestant for heat in heats if heat.clips == 32 and heat.stays)
    assert winner == int(quality.argmin())
    assert sum(looked.values()) == 16 * 32 / 2


def test_of_equals_the_cheaper_wins_and_then_the_earlier() -> None:
    prices = {"now": 0.2, "long": 0.3, "short": 0.1, "as short": 0.1}
    heats = race(
        list(prices),
        lambda one, clips: Outcome(0.5, np.full(clips, 0.5), np.full(clips, prices[one])),
        [4],
        2,
    )
    assert [heat.contestant for heat in heats] == ["short", "as short", "now", "long"]
    assert [heat.stays for heat in heats] == [True, False, False, False]
