"""Find decode settings for each task that score best, and spend little work on them.

One setting for all tasks is the custom, and it is wrong for some: beams and a repetition penalty that help
captions repeat or break transcripts, and four beams cost four times the work of one. Candidates are all
combinations of the values that the recipe lists; they race on calibration clips for

    objective = WER, or minus CIDEr-D  +  latency_weight x work / work of what the model has now
    work      = decoded tokens of the answer x beams, mean over the clips

Work is counted, not timed: the same seed gives the same settings on every machine. It leaves out what is the
same for all (encoders, connector, prompt). How candidates race, and why a lucky one does not win, stands in
``passes/search.py``. Every clip is heard once. No weight changes.

When it helps: nearly always; recognition mostly needs no beams. What it costs: time (some hundred answers a
task). The baseline gets the same search, so that its gain is not sold as this model's; settings of the
recipe's ``benchmark.decode`` go before what is found here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from audiolm_compress.metrics.answers import Metric
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.heard_clips import Answer, HeardClips
from audiolm_compress.passes.search import Search
from audiolm_compress.passes.search_clips import Group, Judge, Split
from audiolm_compress.passes.search_report import Verdict, cautions, figures, history, summary
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.settings import refuse_idle

_WEIGHT: dict[Metric, float] = {"wer": 0.005, "cider_d": 0.05}
_AXES = ("num_beams", "do_sample", "repetition_penalty", "length_penalty", "min_length", "end_sym")


def longest_answer(model: Salmonn, texts: Sequence[str], margin: float) -> int:
    """Tokens of the longest text with its end, times ``margin``, rounded up."""
    return math.ceil(margin * max(len(model.answer_ids(text)) for text in texts))


def effective(settings: DecodeSettings, before: DecodeSettings) -> DecodeSettings:
    """The same with what plays no part as it was ``before``: without beams the length penalty."""
    if settings.num_beams > 1:
        return settings
    return settings.model_copy(update={"length_penalty": before.length_penalty})


class DecodeSearch(Search):
    """Search for the decode settings of each task: a value of each list, or what the model has."""

    kind: Literal["decode_search"] = Field("decode_search", alias="pass")
    num_beams: tuple[int, ...] = Field((1, 2, 4), description="Numbers of beams; 1 is greedy.")
    do_sample: tuple[bool, ...] = Field((False,), description="Sampling off (`false`), on (`true`).")
    repetition_penalty: tuple[float, ...] = Field((1.0, 1.2), description="See `DecodeSettings`.")
    length_penalty: tuple[float, ...] = Field((0.0, 0.5, 1.0), description="Of beam search.")
    min_length: tuple[int, ...] = Field((), description="Shortest answers, the prompt's tokens counted in.")
    end_sym: tuple[str, ...] = Field((), description="Texts before which an answer ends.")
    answer_margin: float | None = Field(
        1.5,
        ge=1,
        description="All candidates stop at so many times the longest reference of the clips that may "
        "decide, if that is less than before; null: max_new_tokens stays.",
    )
    candidates: int = Field(48, ge=1, description="Combinations that are tried; more are drawn from.")
    latency_weight: dict[Metric, float] = Field(
        _WEIGHT,
        description="What decoding as long as now costs, in units of the metric; one that is not named keeps "
        "its default.",
    )

    @field_validator(*_AXES)
    @classmethod
    def _possible(cls, values: tuple[Any, ...], info: Any) -> tuple[Any, ...]:
        for value in values:
            DecodeSettings.model_validate({info.field_name: value})
        return values

    @model_validator(mode="after")
    def _beams_for_their_penalty(self) -> DecodeSearch:
        if set(self.num_beams) == {1} and self.length_penalty:
            instead = "add a number of beams above 1"
            refuse_idle(self, "length_penalty", beside="num_beams: [1]", instead=instead)
        return self

    @field_validator("latency_weight")
    @classmethod
    def _with_defaults(cls, weight: dict[Metric, float]) -> dict[Metric, float]:
        return _WEIGHT | weight

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Search for every task with a score.

        Raises:
            PassError: no task has enough clips.
        """
        groups, notes = self.groups(model, context.calibration, model.decode_settings, context.rng)
        seed = int(torch.randint(2**31, (), generator=context.rng))
        rows: list[Mapping[str, Any]] = []
        clauses: list[str] = []
        found: dict[str, DecodeSettings] = {}
        figures_of: dict[str, Any] = {}
        for group in groups:
            before = model.decode_settings(group.tasks[0])
            verdict, judge = self._search(model, context, group, before, seed)
            clips = Split.of(len(group.clips), self.held_out).search
            works = [float(work(judge, one, clips).mean()) for one in (before, verdict.winner)]
            if verdict.winner != before:
                found |= dict.fromkeys(group.tasks, verdict.winner)
            figures_of |= figures(group, verdict)
            notes += cautions(group, verdict)
            figures_of |= {f"{group.name}: work before": works[0], f"{group.name}: work after": works[1]}
            clauses.append(
                f"{summary(group, verdict, 'decode settings')}; work {works[0]:.1f} -> {works[1]:.1f}"
            )
            rows += history(group, verdict, DecodeSettings.model_dump)
        model.decode.update(found)
        notes.append("work: decoded tokens x beams, mean a clip, counted on the clips that may decide")
        return PassReport(
            changed=bool(found),
            summary="; ".join(clauses),
            figures=figures_of,
            modules=rows,
            notes=tuple(notes),
        )

    def predict(self, sketch: Sketch) -> None:
        """No weight changes, and answers are taken to stay as long as they are."""
        self.predict_search(sketch, sketch.model.decode_settings, self.candidates, 1)
        sketch.notes.append("which decode settings win is not known; no matter of size")

    def rehearsed(self, model: Salmonn) -> Pass:
        """Two candidates."""
        return self.model_copy(update={"candidates": 2, "first_clips": 1, "fewest_clips": 3})

    def combinations(self, before: DecodeSettings, limit: int | None) -> list[DecodeSettings]:
        """Every combination of the listed values, an axis without any as before; each effect once.

        Args:
            before: what the model has; not among them.
            limit: lowers ``max_new_tokens`` where it is less.
        """
        longest = before.max_new_tokens if limit is None else min(limit, before.max_new_tokens)
        axes = [getattr(self, axis) or (getattr(before, axis),) for axis in _AXES]
        # What the model has, with the lower limit, comes first.
        changes = [{}, *(dict(zip(_AXES, values, strict=True)) for values in product(*axes))]
        every = [
            effective(before.model_copy(update={**change, "max_new_tokens": longest}), before)
            for change in changes
        ]
        return [one for one in dict.fromkeys(every) if one != before]

    def _search(
        self, model: Salmonn, context: Context, group: Group, before: DecodeSettings, seed: int
    ) -> tuple[Verdict[DecodeSettings], Judge[DecodeSettings]]:
        context.progress.start(f"decode_search: hearing clips of {group.name}", len(group.clips))
        heard = HeardClips(model, group.clips, self.batch_size, seed, context.progress)
        split = Split.of(len(group.clips), self.held_out)
        weight = self.latency_weight[group.metric]

        def answer(one: DecodeSettings, indices: Sequence[int]) -> list[Answer]:
            return heard.answers(indices, model.prompts, lambda task: one)

        def price(one: DecodeSettings, indices: Sequence[int]) -> NDArray[np.float64]:
            return weight * work(judge, one, indices) / work(judge, before, indices).mean()

        judge = Judge(group, split, answer, price)
        limit = None
        if self.answer_margin is not None:
            texts = [group.clips[index].text for index in split.search]
            limit = longest_answer(model, texts, self.answer_margin)
        every = self.combinations(before, limit)
        if len(every) > self.candidates:
            order = torch.randperm(len(every), generator=context.rng).tolist()
            every = [every[index] for index in sorted(order[: self.candidates])]

        def generation(number: int, ranking: Sequence[DecodeSettings]) -> Sequence[DecodeSettings]:
            return every if number == 0 and not judge.saturated(before) else ()

        return self.contest(before, generation, judge, split, context.progress), judge


def work(
    judge: Judge[DecodeSettings], settings: DecodeSettings, indices: Sequence[int]
) -> NDArray[np.float64]:
    """Float64 [clips]: decoded tokens x beams of each answer."""
    tokens = [answer.tokens for answer in judge.answers(settings, indices)]
    return np.array(tokens, float) * settings.num_beams
