"""What a search found, and all that it tried, in the form of a pass's report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from audiolm_compress.passes.race import Heat, Outcome
from audiolm_compress.passes.search_clips import Candidate, Group


@dataclass(frozen=True)
class Finalist(Generic[Candidate]):
    """A candidate on the confirming clips, and how probable such a lead is by chance."""

    candidate: Candidate
    outcome: Outcome
    p_value: float


@dataclass(frozen=True)
class Verdict(Generic[Candidate]):
    """What a search found.

    Attributes:
        before: what the model had.
        winner: what it gets; ``before`` if nothing was confirmed.
        heats: everything that was tried, one entry a generation.
        confirm: outcome of ``before`` on the confirming clips.
        finalists: those ahead of ``before`` in the race, the best first, on the confirming clips.
        search: outcomes of ``before`` and ``winner`` on all clips that may decide.
        held_out: the same on those that may not.
    """

    before: Candidate
    winner: Candidate
    heats: Sequence[Sequence[Heat[Candidate]]]
    confirm: Outcome
    finalists: Sequence[Finalist[Candidate]]
    search: tuple[Outcome, Outcome]
    held_out: tuple[Outcome, Outcome]

    @property
    def tried(self) -> int:
        """Number of different candidates beside ``before``."""
        return len({heat.contestant for heats in self.heats for heat in heats} - {self.before})


def figures(group: Group, verdict: Verdict[Any]) -> dict[str, float]:
    """Before and after, on the clips that may decide and on those that may not."""
    key = f"{group.name}: {group.metric}"
    return {
        f"{key} {stage} {when}": outcome.figure
        for stage, sides in (("search", verdict.search), ("held-out", verdict.held_out))
        for when, outcome in zip(("before", "after"), sides, strict=True)
    }


def summary(group: Group, verdict: Verdict[Any], what: str) -> str:
    """One clause for the report."""
    if verdict.winner == verdict.before:
        lowest = min((finalist.p_value for finalist in verdict.finalists), default=None)
        why = "none was ahead" if lowest is None else f"none was sure to be better (p = {lowest:.3f})"
        return f"{group.name} keeps its {what}: {verdict.tried} others tried, {why}"
    label = {"wer": "WER", "cider_d": "CIDEr-D"}[group.metric]
    searched, held_out = (
        " -> ".join(f"{outcome.figure:.4f}" for outcome in sides)
        for sides in (verdict.search, verdict.held_out)
    )
    return f"{group.name} has the best of {verdict.tried}: {label} {searched}, held out {held_out}"


def cautions(group: Group, verdict: Verdict[Any]) -> list[str]:
    """What a reader must know of the clips."""
    if group.metric == "wer" and verdict.search[0].figure == 0.0:
        return [
            f"{group.name} is left as it is: no clip that may decide is recognised with an error, so they "
            "tell what is cheaper but not what is as good; give clips that the model was not trained on"
        ]
    return []


def history(
    group: Group, verdict: Verdict[Candidate], describe: Callable[[Candidate], Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """A row for every time that a candidate was looked at."""

    def row(stage: str, one: Candidate, outcome: Outcome, **more: Any) -> Mapping[str, Any]:
        place = {"tasks": group.name, "stage": stage, "clips": len(outcome.losses)}
        return {
            **place,
            group.metric: outcome.figure,
            "objective": outcome.objective,
            "now": one == verdict.before,
            "stays": one == verdict.winner,
            **more,
            **describe(one),
        }

    rows = [
        row(f"race {number}", heat.contestant, heat.outcome, stays=heat.stays)
        for number, heats in enumerate(verdict.heats, start=1)
        for heat in heats
    ]
    rows.append(row("confirm", verdict.before, verdict.confirm))
    rows += [row("confirm", one.candidate, one.outcome, p=one.p_value) for one in verdict.finalists]
    for stage, sides in (("search", verdict.search), ("held out", verdict.held_out)):
        rows.append(row(stage, verdict.before, sides[0]))
        if verdict.winner != verdict.before:
            rows.append(row(stage, verdict.winner, sides[1]))
    return rows
