"""Search on calibration clips what to ask or how to decode, and believe only what fresh clips confirm.

The best of many on the same clips is in part the luckiest, so the clips of a task are split in three:

    race       candidates are compared here, as often as the search likes (``passes/race.py``)
    confirm    the best few meet what the model has now. The first of them for which a paired randomisation
               test (``metrics/randomisation.py``) on its objective gives p <= (1 - confidence) / finalists
               replaces it: nobody has chosen by these clips, so nothing has to be corrected for the number
               of candidates, only for that of finalists (Bonferroni)
    held out   never decides anything; says without bias what the change was worth

A winner whose answers are the same but cheaper has every difference on its side and is confirmed; equal
answers at the same price are not. Where recognition makes no error on any clip that may decide, as on clips
that a model was trained on, nothing is searched: cheaper words that are as good there can be worse on others.
Test clips are never looked at.

What not one of n confirming clips shows may still befall up to 3/n of others (the rule of three; Hanley and
Lippman-Hand 1983), and a low price then confirms a candidate that is worse on them: prices are to stay small
beside what an error costs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from pydantic import Field

from audiolm_compress.data.example import Example
from audiolm_compress.data.tasks import task_kind
from audiolm_compress.errors import PassError
from audiolm_compress.metrics.answers import Metric
from audiolm_compress.metrics.randomisation import p_least, p_lower
from audiolm_compress.passes.base import Pass, Progress
from audiolm_compress.passes.race import Heat, Outcome, contestants, heat_sizes, race
from audiolm_compress.passes.search_clips import Candidate, Group, Split, distinct
from audiolm_compress.passes.search_report import Finalist, Verdict
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn

METRICS: Mapping[str, Metric] = {"asr": "wer", "aac": "cider_d"}


class Search(Pass):
    """What searches have in common."""

    held_out: float = Field(
        0.25, gt=0, lt=1, description="Share of each task's clips that the search never decides by."
    )
    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="How sure it must be, on clips that the winner was not chosen by, that it is better.",
    )
    finalists: int = Field(3, ge=1, description="How many of the best are given the chance to be confirmed.")
    first_clips: int = Field(8, ge=1, description="Clips of the first heat, at least.")
    eta: int = Field(2, ge=2, description="One of so many candidates reaches the next heat, of more clips.")
    fewest_clips: int = Field(
        16, ge=3, description="A task with fewer calibration clips is left as it is, and the report says so."
    )
    batch_size: int = Field(8, ge=1, description="Clips that are answered together.")

    def contest(
        self,
        before: Candidate,
        generation: Callable[[int, Sequence[Candidate]], Sequence[Candidate]],
        outcome: Callable[[Candidate, Sequence[int]], Outcome],
        split: Split,
        progress: Progress,
    ) -> Verdict[Candidate]:
        """Search for something better than ``before``.

        Args:
            before: what the model has; it takes part in every race.
            generation: the candidates of race number 0, 1, ...; it is given those on which all racing clips
                were spent so far, the best first, and ends the search with an empty list.
            outcome: of a candidate on the clips of these indices.
            split: of the clips.
            progress: gets a line for every race.
        """
        sizes = heat_sizes(len(split.race), self.first_clips, self.eta)
        races: list[list[Heat[Candidate]]] = []
        ranking: dict[Candidate, float] = {before: outcome(before, split.race).objective}

        def raced(one: Candidate, clips: int) -> Outcome:
            progress.advance()
            return outcome(one, split.race[:clips])

        while new := [one for one in generation(len(races), list(ranking)) if one not in ranking]:
            runners = [before, *dict.fromkeys(new)]
            total = sum(contestants(len(runners), len(sizes), self.eta))
            progress.start(f"{self.kind}: race {len(races) + 1} of {len(runners)} candidates", total)
            heats = race(runners, raced, sizes, self.eta)
            races.append(heats)
            ranking |= {h.contestant: h.outcome.objective for h in heats if h.clips == len(split.race)}
            ranking = dict(sorted(ranking.items(), key=lambda one: one[1]))
        confirm = outcome(before, split.confirm)
        ahead = [one for one, objective in ranking.items() if objective < ranking[before]]
        finalists = []
        for one in ahead[: self.finalists]:
            how = outcome(one, split.confirm)
            finalists.append(Finalist(one, how, p_lower(how.objectives - confirm.objectives)))
        bound = (1 - self.confidence) / max(1, len(finalists))
        sure = (finalist.candidate for finalist in finalists if finalist.p_value <= bound)
        winner = next(sure, before)
        on_search, on_held_out = (
            (outcome(before, clips), outcome(winner, clips)) for clips in (split.search, split.held_out)
        )
        return Verdict(before, winner, races, confirm, tuple(finalists), on_search, on_held_out)

    def predict_search(
        self, sketch: Sketch, alike: Callable[[str], Hashable], candidates: int, generations: int
    ) -> None:
        """Count the work: every clip is heard once, and answered as often as heats come to it.

        Raises:
            PassError: as ``groups``, where the clips are known.
        """
        if not sketch.calibration:
            return
        groups, _ = self.groups(sketch.model, sketch.calibration, alike)
        for group in groups:
            split = Split.of(len(group.clips), self.held_out)
            sizes = heat_sizes(len(split.race), self.first_clips, self.eta)
            running = contestants(candidates + 1, len(sizes), self.eta)
            fresh = [clips - heard for clips, heard in zip(sizes, [0, *sizes], strict=False)]
            answers = generations * sum(n * clips for n, clips in zip(running, fresh, strict=True))
            for part in sketch.model.parts():
                beside = (1 + self.finalists) * len(split.confirm) + 2 * len(split.held_out)
                sketch.run_part(part, answers + beside if part == "llm" else len(group.clips))

    def groups(
        self,
        model: Salmonn,
        examples: Sequence[Example],
        alike: Callable[[str], Hashable],
        rng: torch.Generator | None = None,
    ) -> tuple[list[Group], list[str]]:
        """The tasks to search for, and why others are left alone.

        Args:
            model: tasks that it knows and no clip has join those that are like them.
            examples: calibration clips.
            alike: tasks of one kind for which this is equal are one group.
            rng: shuffles the clips; without it they stay in order.

        Raises:
            PassError: no task has enough clips.
        """
        tasks: dict[tuple[Metric, Hashable], list[str]] = {}
        notes = []
        heard = dict.fromkeys(example.task for example in examples)
        for task in dict.fromkeys([*heard, *model.prompts.test, *model.prompts.train]):
            metric = METRICS.get(task_kind(task))
            if metric is not None:
                tasks.setdefault((metric, alike(task)), []).append(task)
            elif task in heard:
                notes.append(f"{task} is left as it is: its answers have no score here")
        found = []
        most = 0
        for (metric, _), names in tasks.items():
            every = [example for example in examples if example.task in names]
            own = distinct(every)
            if len(own) < len(every):
                notes.append(
                    f"{', '.join(names)}: {len(every)} calibration clips of {len(own)} audio files; each "
                    "counts once, with all its texts"
                )
            most = max(most, len(own))
            if len(own) < self.fewest_clips:
                notes.append(
                    f"{', '.join(names)} is left as it is: {len(own)} calibration clips, fewest_clips is "
                    f"{self.fewest_clips}"
                )
                continue
            confirming = len(Split.of(len(own), self.held_out).confirm)
            if p_least(confirming) > (1 - self.confidence) / self.finalists:
                notes.append(
                    f"{', '.join(names)}: {confirming} confirming clips may be too few for confidence "
                    f"{self.confidence:g} among {self.finalists} finalists, whatever they say (p >= "
                    f"{p_least(confirming):.3g}); give more clips, or lower either"
                )
            order = range(len(own)) if rng is None else torch.randperm(len(own), generator=rng).tolist()
            found.append(Group(tuple(names), metric, tuple(own[index] for index in order)))
        if not found:
            raise PassError(
                f"{self.kind}: fewest_clips={self.fewest_clips}, but no task of recognition or captions has "
                f"more than {most} calibration clips; give more of them"
            )
        return found, notes
