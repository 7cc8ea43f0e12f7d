"""What all passes that train have in common: how long, how fast, on which clips, towards what.

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from audiolm_compress.data.augment import Augmentation, with_variants
from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, Progress
from audiolm_compress.passes.student import Student, same_length, teachable
from audiolm_compress.passes.teacher import Teacher, Wanted
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.runtime.engine import forget
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.settings import Settings
from audiolm_compress.training import TrainSettings, show_losses, train

_VALIDATIONS = 10  # in a whole training
_LONGEST = 10**9  # steps, where minutes or nothing but epochs end a training
_TRAINING_FLOPS = 3.0  # forward and backward passes, relative to the forward pass alone


class Losses(Settings):
    """Weights of the losses; 0 leaves one out."""

    speech: float = Field(1.0, ge=0, description="Whisper's states against the baseline's.")
    audio: float = Field(1.0, ge=0, description="BEATs' states against the baseline's.")
    connector: float = Field(1.0, ge=0, description="Audio tokens against the baseline's.")
    logits: float = Field(1.0, ge=0, description="Next-token probabilities against the baseline's.")
    text: float = Field(0.5, ge=0, description="Cross-entropy of the reference texts.")

    @model_validator(mode="after")
    def _something_to_learn(self) -> Losses:
        if not any(self.model_dump().values()):
            raise ValueError("all losses are 0, so there is nothing to learn; give one of them a weight")
        return self


class Recovery(Pass):
    """Base of the passes that train; what is trained, the subclass says."""

    learns: ClassVar[bool] = True

    epochs: float | None = Field(
        4.0, gt=0, description="Rounds through the clips. The first of epochs, steps and minutes ends it."
    )
    steps: int | None = Field(None, ge=1, description="Changes of the weights.")
    minutes: float | None = Field(
        None,
        gt=0,
        description="Of training, teaching not counted. How far a machine comes in them varies, so such a "
        "run does not repeat exactly.",
    )
    learning_rate: float = Field(3e-4, gt=0, description="Highest learning rate of AdamW.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay of matrices.")
    batch_size: int = Field(8, ge=1, description="Clips in a batch; those of a batch have one length.")
    accumulation: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    mixed_precision: Literal["no", "bf16"] = Field("no", description="Autocast of the matrix products.")
    losses: Losses = Field(Losses(), description="What the student is to be near to, by weight.")
    temperature: float = Field(1.0, gt=0, description="Of the probabilities that logits are compared in.")
    clips: int | None = Field(None, ge=2, description="At most so many training clips; null: all.")
    valid_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the clips that only decides which weights are the best."
    )
    augment: Augmentation = Field(Augmentation(), description="Variants of the clips to learn from.")

    @model_validator(mode="after")
    def _ends(self) -> Recovery:
        if self.epochs is None and self.steps is None and self.minutes is None:
            raise ValueError("epochs, steps and minutes are all null, so training would not end; give one")
        return self

    def rehearsed(self, model: Salmonn) -> Pass:
        """A step or two on the clips as they are."""
        return self.model_copy(
            update={"epochs": None, "steps": 2, "minutes": None, "clips": None, "augment": Augmentation()}
        )

    def predict_training(self, sketch: Sketch, trained: Collection[str]) -> None:
        """Count the baseline's look at every clip and the student's steps.

        What is trained in ``trained`` parts costs a backward pass there and in all that follows; encoders
        before it are run once a clip.
        """
        clips = min(self.clips or sketch.training_clips, sketch.training_clips) * (1 + self.augment.copies)
        sketch.run_baseline(clips)
        if self.epochs is not None:
            seen = clips * self.epochs
        else:
            seen = (self.steps or 0) * self.batch_size * self.accumulation
        moved = {*trained, "llm"} | ({"connector"} if set(trained) - {"llm"} else set())
        for part in sketch.model.parts():
            sketch.run_part(part, _TRAINING_FLOPS * seen if part in moved else clips)


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
) -> Recovered:
    """Train parameters of ``model`` in place, towards the baseline and the reference texts.

    Args:
        model: the student, as the passes so far left it.
        context: with clips and the baseline, which is loaded if a loss needs it.
        settings: how long, how fast, towards what.
        trained: full name -> parameter; everything else stays as it is.
        speech_layers: layer of the student's Whisper -> layer of the baseline's that it is to resemble.
        audio_layers: the same for BEATs.

    Returns:
        What there is to report. The model is left in evaluation mode with the best weights on held-out clips,
        those from before among them, and no parameter requires a gradient.

    Raises:
        PassError: nothing to train, too few clips, or a loss that is impossible for this student.
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
    examples, held_out = _clips(context, settings)
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
    with _learning(model, trained):
        lessons = _teach(teacher, examples, settings.kind, context.progress)
        student = Student(model, examples, lessons, weights, settings.temperature, teacher, context.features)
        unlike = sum("logits" not in lesson for lesson in lessons) if "logits" in weights else 0
        if unlike:
            notes.append(f"{unlike} clips have no loss on logits: the baseline writes their texts otherwise")
        plan = _Plan(
            student, settings.batch_size, held_out, int(torch.randint(2**31, (), generator=context.rng))
        )
        before = _mean_losses(student, plan.validation)
        untrained = {name: parameter.detach().clone() for name, parameter in trained.items()}
        steps = _steps(settings, len(plan(0)))
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
                validate_every=max(1, min(steps // _VALIDATIONS, len(plan(0)) // settings.accumulation)),
                seed=plan.seed,
            ),
            validate=validate,
            after_step=lambda result, _: show_losses(result, context.progress.figure),
        )
        after = _mean_losses(student, plan.validation)
        changed = total(after) < total(before)
        if not changed:
            after = before
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(untrained[name])
    if settings.minutes is not None:
        notes.append(f"ended by minutes or steps, whichever came first: {result.steps} steps; not repeatable")
    figures: dict[str, Any] = {
        "steps": result.steps,
        "best_step": result.best_step if changed else 0,
        "clips": len(examples) - len(held_out),
        "held_out_clips": len(held_out),
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


class _Plan:
    """The batches of an epoch: clips of one length together, shuffled anew for every epoch."""

    def __init__(self, student: Student, batch_size: int, held_out: Sequence[int], seed: int) -> None:
        self.seed, self._size = seed, batch_size
        kept = set(held_out)
        learned = [index for index in range(len(student.examples)) if index not in kept]
        self._groups = same_length(student.model, student.examples, learned)
        self.validation = [
            group[start : start + batch_size]
            for group in same_length(student.model, student.examples, held_out)
            for start in range(0, len(group), batch_size)
        ]

    def __call__(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + epoch)
        batches = []
        for group in self._groups:
            order = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
            batches += [order[start : start + self._size] for start in range(0, len(order), self._size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _clips(context: Context, settings: Recovery) -> tuple[list[Example], list[int]]:
    """All clips with their variants, and the numbers of those that are held out; these have no variants.

    Raises:
        PassError: fewer than two clips.
    """
    examples = list(context.training_clips)
    order = torch.randperm(len(examples), generator=context.rng).tolist()[: settings.clips]
    if len(order) < 2:
        raise PassError(
            f"{settings.kind}: needs at least two clips, one to learn from and one to judge by; found "
            f"{len(order)}; give data.training or more calibration clips"
        )
    count = min(max(1, round(settings.valid_share * len(order))), len(order) - 1)
    held_out = [examples[index] for index in order[:count]]
    learned = [examples[index] for index in order[count:]]
    varied = with_variants(learned, settings.augment, context.rng)
    return [*held_out, *varied], list(range(count))


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


def _steps(settings: Recovery, batches: int) -> int:
    """Changes of the weights until epochs or steps end the training."""
    limits = [_LONGEST]
    if settings.epochs is not None:
        limits.append(max(1, round(settings.epochs * batches / settings.accumulation)))
    if settings.steps is not None:
        limits.append(settings.steps)
    return min(limits)


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
