"""Find words for each task that this model answers best to, and spend few tokens on them.

What a SALMONN is asked moves its scores more than most compression does, and a compressed model need not like
the words best that the baseline was trained with. Candidates are a template (a system text in it) and an
instruction: those of the recipe, the model's own of training, paraphrases, what a proposer says, then edits
of the best so far (``passes/wordings.py``). They race on calibration clips for

    objective = WER, or minus CIDEr-D  +  length_penalty x tokens of the prompt

since every token of the prompt is read before the first one of the answer. How they race, and why a lucky
candidate does not win, stands in ``passes/search.py``. Answers come from the model's own decode settings;
every clip is heard once. No weight changes.

When it helps: after compression, and with prompts that were written for another model. What it costs: time
(some hundred answers a task and generation), and words fitted to the calibration clips: the held-out figures
tell how well they carry over. The baseline gets the same search, so that its gain is not sold as this
model's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from audiolm_compress.data.tasks import task_kind
from audiolm_compress.errors import PassError
from audiolm_compress.metrics.answers import Metric
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.heard_clips import Answer, HeardClips
from audiolm_compress.passes.proposer import LocalProposer
from audiolm_compress.passes.search import Search
from audiolm_compress.passes.search_clips import Group, Judge, Split
from audiolm_compress.passes.search_report import Verdict, cautions, figures, history, summary
from audiolm_compress.passes.wordings import Wording, crossed, framings, neighbours, paraphrases
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.prompts import AUDIO_SLOT, Prompts
from audiolm_compress.salmonn.vocabulary import token_ids
from audiolm_compress.settings import resolve

Propose = Callable[[str, Sequence[str], int], Sequence[str]]
_PENALTY: dict[Metric, float] = {"wer": 0.0002, "cider_d": 0.002}
_PARENTS = 4  # of the best, whose neighbours are the next generation


def _folder(path: Path, info: ValidationInfo) -> Path:
    found = resolve(str(path), info)
    if not found.is_dir():
        raise ValueError(f"no such folder: {found}")
    if not (found / "config.json").is_file():
        raise ValueError(f"no model of transformers: {found} has no config.json")
    return found


class PromptSearch(Search):
    """Search for the template and the instruction of each task."""

    kind: Literal["prompt_search"] = Field("prompt_search", alias="pass")
    instructions: dict[str, tuple[str, ...]] = Field(
        {},
        description="Instructions to begin with, by task or kind (`asr`, `aac`); without <SpeechHere> they "
        "follow the audio.",
    )
    systems: tuple[str, ...] = Field((), description="System texts, each tried on lines before a template.")
    templates: tuple[str, ...] = Field((), description="Further templates, with one {} for the instruction.")
    proposer: Annotated[Path, AfterValidator(_folder)] | None = Field(
        None,
        description="Folder of a causal LM with its tokenizer, which proposes further instructions.",
    )
    candidates: int = Field(24, ge=1, description="Candidates of a generation, beside what the model has.")
    generations: int = Field(2, ge=1, description="The second and later ones are edits of the best so far.")
    length_penalty: dict[Metric, float] = Field(
        _PENALTY,
        description="What a token of the prompt costs, in units of the metric; one that is not named keeps "
        "its default.",
    )

    @field_validator("length_penalty")
    @classmethod
    def _with_defaults(cls, penalty: dict[Metric, float]) -> dict[Metric, float]:
        return _PENALTY | penalty

    @field_validator("templates")
    @classmethod
    def _one_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 or AUDIO_SLOT in template:
                raise ValueError(
                    f"{{}} must occur exactly once in each, and {AUDIO_SLOT} not at all; found {template!r}"
                )
        return templates

    @field_validator("systems")
    @classmethod
    def _no_place(cls, systems: tuple[str, ...]) -> tuple[str, ...]:
        for system in systems:
            if "{}" in system or AUDIO_SLOT in system:
                raise ValueError(f"neither {{}} nor {AUDIO_SLOT} may occur in one; found {system!r}")
        return systems

    @field_validator("instructions")
    @classmethod
    def _one_audio(cls, instructions: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for text in chain.from_iterable(instructions.values()):
            if text.count(AUDIO_SLOT) > 1:
                raise ValueError(f"{AUDIO_SLOT} must occur at most once in each; found {text!r}")
        return instructions

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Search for every task with a score; ``search_prompts`` takes a proposer of your own.

        Raises:
            PassError: no task has enough clips, ``instructions`` are for a task that is not there, or
                ``proposer`` holds no causal LM.
        """
        return search_prompts(model, context, self)

    def predict(self, sketch: Sketch) -> None:
        """Prompts are taken to keep their length."""
        self.check_tasks(sketch.model)
        self.predict_search(sketch, present_wording(sketch.model), self.candidates, self.generations)
        sketch.notes.append("which prompts win is not known; taken to keep their length")

    def rehearsed(self, model: Salmonn) -> Pass:
        """Two candidates a generation, and no proposer."""
        shorter = {"candidates": 2, "first_clips": 1, "fewest_clips": 3, "proposer": None}
        return self.model_copy(update=shorter)

    def check_tasks(self, model: Salmonn) -> None:
        """Refuse instructions that nobody would look at.

        Raises:
            PassError: they are for a task that ``model`` has no prompt for.
        """
        known = ["asr", "aac", *dict.fromkeys([*model.prompts.test, *model.prompts.train])]
        if unknown := [task for task in self.instructions if task not in known]:
            raise PassError(
                f"prompt_search: instructions for {', '.join(unknown)}, but there are prompts for "
                f"{', '.join(known)}; name one of these"
            )

    def seeds(
        self, group: Group, before: Wording, trained: Sequence[str], proposed: Sequence[str]
    ) -> tuple[list[Wording], list[Wording]]:
        """The first generation, and what there was no room for in it.

        Those of the recipe come first, then those of training and of the proposer in turn; paraphrases and
        edits of what the model has fill up what is left, and do not count as left out.
        """
        kind = task_kind(group.tasks[0])
        asked = [text for key in (kind, *group.tasks) for text in self.instructions.get(key, ())]
        frames = framings(before.template, self.systems, self.templates)
        in_turn = [text for text in chain.from_iterable(zip_longest(trained, proposed)) if text is not None]
        given = [
            *map(before.with_words, asked),
            *(Wording(template, before.instruction) for template in frames),
            *map(before.with_words, in_turn),
        ]
        given = [one for one in dict.fromkeys(given) if one != before]
        more = [*map(before.with_words, paraphrases(group.metric)), *neighbours(before)]
        first = [one for one in dict.fromkeys([*given, *more]) if one != before]
        return first[: self.candidates], given[self.candidates :]


def search_prompts(
    model: Salmonn, context: Context, settings: PromptSearch, propose: Propose | None = None
) -> PassReport:
    """What ``PromptSearch.apply`` does, with a proposer that need not be a folder.

    Args:
        model: gets the prompts that win.
        context: with calibration clips.
        settings: of the search.
        propose: gets a task, instructions that are in use and a number, and returns at most so many others;
            takes the place of ``settings.proposer``.

    Raises:
        PassError: as ``PromptSearch.apply``.
    """
    settings.check_tasks(model)
    groups, notes = settings.groups(model, context.calibration, present_wording(model), context.rng)
    seed = int(torch.randint(2**31, (), generator=context.rng))
    if propose is None and settings.proposer is not None:
        propose = LocalProposer(settings.proposer, seed)
    prompts, rows, clauses = model.prompts, [], []
    figures_of: dict[str, Any] = {}
    for group in groups:
        before = present_wording(model)(group.tasks[0])
        trained = [text for task in group.tasks for text in model.prompts.train.get(task, ())]
        proposed: Sequence[str] = ()
        if propose is not None:
            known = [wording.words for wording in (before, *map(before.with_words, trained))]
            proposed = list(propose(group.tasks[0], list(dict.fromkeys(known)), settings.candidates))
            notes.append(f"{group.name}: {len(proposed)} instructions proposed")
        first, left_out = settings.seeds(group, before, trained, proposed)
        if left_out:
            notes.append(
                f"{group.name}: {len(left_out)} of the prompts given by the recipe, training or the proposer "
                f"were not tried, as candidates is {settings.candidates}"
            )
        verdict = _search(model, context, settings, group, before, first, seed)
        if verdict.winner != before:
            prompts = prompts.worded(group.tasks, verdict.winner.template, verdict.winner.instruction)
        tokens = [prompt_tokens(model, one) for one in (before, verdict.winner)]
        figures_of |= figures(group, verdict)
        notes += cautions(group, verdict)
        figures_of |= {f"{group.name}: prompt tokens before": tokens[0]}
        figures_of |= {f"{group.name}: prompt tokens after": tokens[1]}
        clauses.append(f"{summary(group, verdict, 'prompt')}; tokens {tokens[0]} -> {tokens[1]}")
        rows += history(group, verdict, partial(_described, model))
    changed = prompts != model.prompts
    model.prompts = prompts
    return PassReport(
        changed=changed,
        summary="; ".join(clauses),
        figures=figures_of,
        modules=rows,
        notes=tuple(notes),
    )


def present_wording(model: Salmonn) -> Callable[[str], Wording]:
    """What the model asks for a task now."""
    prompts = model.prompts
    return lambda task: Wording(prompts.templates.get(task, prompts.template), prompts.instruction(task))


def prompt_tokens(model: Salmonn, wording: Wording) -> int:
    """Tokens around the audio, without a beginning-of-text token."""
    around = Prompts(wording.template, {"": wording.instruction}).around("")
    return sum(map(len, token_ids(model.tokenizer, around)))


def _search(
    model: Salmonn,
    context: Context,
    settings: PromptSearch,
    group: Group,
    before: Wording,
    first: Sequence[Wording],
    seed: int,
) -> Verdict[Wording]:
    context.progress.start(f"prompt_search: hearing clips of {group.name}", len(group.clips))
    heard = HeardClips(model, group.clips, settings.batch_size, seed, context.progress)
    split = Split.of(len(group.clips), settings.held_out)
    penalty = settings.length_penalty[group.metric]

    def answer(one: Wording, indices: Sequence[int]) -> list[Answer]:
        prompts = model.prompts.worded(group.tasks, one.template, one.instruction)
        return heard.answers(indices, prompts, model.decode_settings)

    judge = Judge(group, split, answer, lambda one, _: penalty * prompt_tokens(model, one))
    tried = {before}
    chance = random.Random(seed)

    def generation(number: int, ranking: Sequence[Wording]) -> Sequence[Wording]:
        if number >= settings.generations or judge.saturated(before):
            return ()
        if number == 0:
            new = list(first)
        else:
            new = _offspring(ranking[:_PARENTS], tried, chance)[: settings.candidates]
        tried.update(new)
        return new

    return settings.contest(before, generation, judge, split, context.progress)


def _offspring(parents: Sequence[Wording], tried: set[Wording], chance: random.Random) -> list[Wording]:
    """The parents' neighbours in turn, each parent's in random order, and what two parents give together."""
    families = [list(chain.from_iterable(crossed(one, other) for one in parents for other in parents))]
    for parent in parents:
        family = neighbours(parent)
        chance.shuffle(family)
        families.append(family)
    inturn = chain.from_iterable(zip_longest(*families))
    return [one for one in dict.fromkeys(inturn) if one is not None and one not in tried]


def _described(model: Salmonn, wording: Wording) -> Mapping[str, Any]:
    tokens = prompt_tokens(model, wording)
    return {"tokens": tokens, "template": wording.template, "instruction": wording.instruction}
