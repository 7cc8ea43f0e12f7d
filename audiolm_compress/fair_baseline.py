"""A baseline that is compared fairly where passes have changed prompts or decode settings.

A better prompt is no better compression, and the baseline would gain by it too. So the baseline that counts
is asked and decodes as the candidate does. Beside it the report shows what its words were as it came (``own
settings``), and what it reaches when the recipe's searches work for it alone, on the same calibration clips
(``own best``): what the candidate has gained over that, or lost, compression has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.salmonn.asking import Asking

OWN, BEST = "own settings", "own best"
_HOW = "the baseline is asked and decodes as the candidate does"
_EXPLAINED = {
    OWN: "own settings: the baseline with the prompts and decode settings that it came with",
    BEST: "own best: the baseline with those that the same searches on the same calibration clips give it",
}


@dataclass(frozen=True)
class Baseline:
    """All that was measured of the baseline.

    Attributes:
        fair: what the candidate is compared with.
        further: other columns of the report.
        notes: on what they are; empty if there are none.
    """

    fair: Measurements
    further: Mapping[str, Measurements]
    notes: tuple[str, ...]


def fair_baseline(
    known: Sequence[tuple[Asking, Measurements]],
    own: Asking,
    candidates: Asking,
    best: Asking | None,
    measured: Callable[[str, Asking], Measurements],
) -> Baseline:
    """Measure the baseline as often as it takes, no more.

    Args:
        known: what has been measured already, and how it was asked.
        own: prompts and decode settings of its own.
        candidates: those of the candidate.
        best: what searches found for the baseline; None if the recipe has none.
        measured: measures it, under a name, with prompts and decode settings in the place of its own.
    """
    known = list(known)

    def side(name: str, asking: Asking) -> Measurements:
        for other, found in known:
            if other == asking:
                return found
        known.append((asking, measured(name, asking)))
        return known[-1][1]

    fair = side("baseline", candidates)
    further = {OWN: side(f"baseline, {OWN}", own)} if candidates != own else {}
    if best is not None and (best, candidates) != (own, own):
        further[BEST] = side(f"baseline, {BEST}", best)
    notes = (_HOW, *(_EXPLAINED[name] for name in further)) if further else ()
    return Baseline(fair, further, notes)
