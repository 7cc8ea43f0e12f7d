"""What all passes that train do: ask the baseline, train, and keep what is better on clips held out.

The loss of a batch is a weighted sum of

    speech, audio   how far the encoders' states are from the teacher's          (`passes/distillation.py`)
    connector       the same of audio tokens
    logits          Kullback-Leibler divergence from the teacher's next-token probabilities
    text            cross-entropy of the reference texts

The teacher is the untouched baseline, asked once for each clip before training begins. A share of the clips
is not learned from; the weights with the lowest loss on them are the ones that stay. Trained parts are in
32 bit while they learn, as a step of AdamW is mostly smaller than half a unit in the last place of bfloat16,
and have their own type again afterwards.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Progress
from audiolm_compress.passes.recovery_clips import Batches, split_clips
from audiolm_compress.passes.recovery_settings import Recovery
from audiolm_compress.passes.student import Student, teachable
from audiolm_compress.passes.teacher import Teacher, Wanted
from audiolm_compress.runtime.engine import forget
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.training import TrainSettings, show_losses, train
from audiolm_compress.training.shards import processes

_VALIDATIONS = 10  # in a training whose end is known; in others one an epoch
_LONGEST = 10**9  # steps, where nothing but minutes ends a training


@dataclass(frozen=True)
class Recovered:
    """What a training gave.

    Attributes:
        changed: False if the held-out clips found nothing better than the weights there were; these are back.
        figures: steps, seconds, clips, losses on held-out clips before and after.
        notes: losses and clips that were left out, and what does not repeat.
        rows: trained parameters by part.
    """

    changed: bool
    figures: dict[str, Any]
    notes: list[str]
    rows: list[dict[str, Any]]


def recover(
    model: Salmonn,
    context: Context,
    settings: Recovery,
    trained: Mapping[str, nn.Parameter],
    *,
    speech_layers: Mapping[int, int] | None = None,
    audio_layers: Mapping[int, int] | None = None,
    as_kept: Callable[[], None] = lambda: None,
) -> Recovered:
    """Train parameters of ``model`` in place, towards the baseline and the reference texts.

    Args:
        model: the student, as the passes so far left it.
        context: with clips and the baseline, which is loaded if a loss needs it.
        settings: how long, how fast, towards what.
        trained: full name -> parameter; everything else stays as it is.
        speech_layers: layer of the student's Whisper -> layer of the baseline's that it is to resemble.
        audio_layers: the same for BEATs.
        as_kept: rounds what is trained as it will be stored, before it is judged; rounding to the types that
            the parameters had is done here.

    Returns:
        What there is to report. The model is left in evaluation mode with the best weights on held-out clips,
        those from before among them, and no parameter requires a gradient.

    Raises:
        PassError: nothing to train, too few clips, a clip without any loss, or a loss that is impossible for
            this student.
        DataError: a loss was not finite.
    """
    if not trained:
        raise PassError(f"{settings.kind}: none of the parts has a parameter that could be trained")
    parts = {name.partition(".")[0] for name in trained}
    weights, notes = teachable(settings.losses, model, parts)
    if not weights:
        raise PassError(
            f"{settings.kind}: no loss can change what is trained ({', '.join(sorted(parts))}); "
            f"{'; '.join(notes)}; give another loss a weight"
        )
    examples, held_out = split_clips(context, settings)
    if not context.training:
        notes.append("learned from the calibration clips, as there is no data.training")
    wanted = Wanted(
        speech="speech" in weights,
        audio="audio" in weights,
        connector="connector" in weights,
        logits="logits" in weights,
        speech_layers=speech_layers,
        audio_layers=audio_layers,
    )
    teacher = None
    if weights.keys() - {"text"}:
        try:
            teacher = Teacher(context.reference(), model, wanted, context.features)
        except PassError as error:
            raise PassError(f"{settings.kind}: {error}") from error
    types = {name: parameter.dtype for name, parameter in trained.items()}
    with _learning(model, trained):
        lessons = _teach(teacher, examples, settings.kind, context.progress)
        notes += _without_logits(lessons, weights, settings.kind)
        student = Student(model, examples, lessons, weights, settings.temperature, teacher, context.features)
        seed = int(torch.randint(2**31, (), generator=context.rng))
        plan = Batches(model, examples, held_out, settings.batch_size, seed)
        before = _mean_losses(student, plan.validation)
        untrained = {name: parameter.detach().clone() for name, parameter in trained.items()}
        epoch = len(plan(0)) / (settings.accumulation * processes().num_processes)
        steps = _steps(settings, epoch)
        context.progress.start(f"{settings.kind}: training", steps * settings.accumulation)

        def total(found: Mapping[str, float]) -> float:
            return sum(weights[name] * value for name, value in found.items())

        def validate(_: nn.Module) -> float:
            return total(_mean_losses(student, plan.validation))

        def loss(wrapped: nn.Module, batch: Sequence[int]) -> Tensor:
            context.progress.advance()
            return wrapped(batch)

        result = train(
            student,
            plan,
            loss,
            TrainSettings(
                steps=steps,
                minutes=settings.minutes,
                learning_rate=settings.learning_rate,
                warmup=math.ceil(settings.warmup_share * steps) if steps < _LONGEST else 20,
                final_rate=0.02,
                weight_decay=settings.weight_decay,
                accumulation=settings.accumulation,
                mixed_precision=settings.mixed_precision,
                validate_every=_validate_every(settings, steps, epoch),
                seed=plan.seed,
            ),
            validate=validate,
            after_step=lambda result, _: show_losses(result, context.progress.figure),
        )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(parameter.to(types[name]))
            as_kept()
        after = _mean_losses(student, plan.validation)
        changed = total(after) < total(before)
        if not changed:
            after = before
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(untrained[name])
    if settings.minutes is not None:
        notes.append(
            f"{result.steps} steps were taken in {settings.minutes:g} minutes at most; not repeatable"
        )
    figures: dict[str, Any] = {
        "steps": result.steps,
        "best_step": result.best_step if changed else 0,
        "clips": len(examples) - held_out,
        "held_out_clips": held_out,
        "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
        "saved_bytes": 0,
    }
    for name in before:
        figures |= {f"{name}_before": before[name], f"{name}_after": after[name]}
    counts: Counter[str] = Counter()
    for name, parameter in trained.items():
        counts[name.partition(".")[0]] += parameter.numel()
    rows = [{"part": part, "parameters": count} for part, count in counts.items()]
    return Recovered(changed, figures, notes, rows)


def improvement(recovered: Recovered) -> str:
    """The losses before and after, for a summary."""
    figures = recovered.figures
    if not recovered.changed:
        return f"no better on held-out clips after {figures['steps']} steps, so left as it was"
    names = [name.removesuffix("_before") for name in figures if name.endswith("_before")]
    losses = ", ".join(f"{n} {figures[f'{n}_before']:.3f} -> {figures[f'{n}_after']:.3f}" for n in names)
    return f"on held-out clips {losses}"


def _teach(
    teacher: Teacher | None, examples: Sequence[Example], kind: str, progress: Progress
) -> list[dict[str, Tensor]]:
    """A lesson a clip; empty without a teacher."""
    if teacher is None:
        return []
    progress.start(f"{kind}: asking the baseline", len(examples))
    lessons = []
    for example in examples:
        lessons.append(teacher.lesson(example))
        progress.advance()
    return lessons


def _without_logits(
    lessons: Sequence[Mapping[str, Tensor]], weights: Mapping[str, float], kind: str
) -> list[str]:
    """A note on clips whose texts student and baseline write in different tokens.

    Raises:
        PassError: there are such clips, and no other loss to learn from.
    """
    unlike = sum("logits" not in lesson for lesson in lessons) if "logits" in weights else 0
    if unlike and len(weights) == 1:
        raise PassError(
            f"{kind}: the baseline writes the texts of {unlike} of {len(lessons)} clips in other tokens, so "
            "there is no loss on their logits, and no other loss; give losses.text or another one a weight"
        )
    said = f"{unlike} clips have no loss on logits: the baseline writes their texts in other tokens"
    return [said] if unlike else []


def _steps(settings: Recovery, epoch: float) -> int:
    """Changes of the weights until epochs, of so many steps each, or steps end the training."""
    limits = [_LONGEST]
    if settings.epochs is not None:
        limits.append(max(1, round(settings.epochs * epoch)))
    if settings.steps is not None:
        limits.append(settings.steps)
    return min(limits)


def _validate_every(settings: Recovery, steps: int, epoch: float) -> int:
    """Steps between validations: where minutes may end the training at any step, an epoch at most."""
    often = steps / _VALIDATIONS
    return max(1, int(often if settings.minutes is None else min(often, epoch)))


@torch.no_grad()
def _mean_losses(student: Student, batches: Sequence[Sequence[int]]) -> dict[str, float]:
    """Each loss, every clip weighing the same."""
    was_training = student.training
    student.eval()
    totals: dict[str, float] = defaultdict(float)
    clips: Counter[str] = Counter()
    for batch in batches:
        for name, value in student.losses(batch).items():
            totals[name] += len(batch) * value.item()
            clips[name] += len(batch)
    student.train(was_training)
    return {name: totals[name] / clips[name] for name in totals}


@contextmanager
def _learning(model: Salmonn, trained: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Inside, exactly ``trained`` require gradients, and the parts that hold them are in 32 bit."""
    parts = {name.partition(".")[0] for name in trained}
    dtypes = {parameter: parameter.dtype for part in parts for parameter in model.parts()[part].parameters()}
    model.eval().requires_grad_(False)
    model.cast(torch.float32, sorted(parts))
    for parameter in trained.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        model.eval().requires_grad_(False)
        for parameter, dtype in dtypes.items():
            parameter.data = parameter.data.to(dtype)
            parameter.grad = None
        forget(model.causal_lm)
