"""Replace linear layers by two thin ones, fitted to what the layers give on calibration data.

LiteASR (Kamahori et al., arXiv:2502.20583): what the layers of a Whisper encoder give lies mostly in few
directions, though their weights have full rank. With V_r the first r principal directions of a layer's output
y = W x + b and m its mean over calibration positions,

    y' = V_r (V_r^T W x) + m - V_r V_r^T (m - b)

has the smallest mean squared output error that any two factors of rank r can have on those positions; the
error is the sum of the variances left out (proof and mathematics in `quantization/low_rank.py`).

A layer [out, in] is replaced only where that saves bytes and multiplications, r (in + out) < in out, r a
multiple of 16 and the bias counted; the report names the others. Ranks come from one of two settings:

* ``energy``: each layer keeps that share of its output's variance;
* ``budget``: all layers together keep that share of their bytes, with ranks where they lose least.

When it helps: encoders, in bytes and time to first token alike, on any device and without special kernels;
quantisation can follow, as both factors are plain linear layers. Large-v3 takes it better than turbo does.
What it costs: one run over the calibration clips, in float64 min(in, out)^2 statistics a layer (2.5 GiB for
Whisper-large's encoder), and accuracy that a short recovery brings back. A decoder that is bound by reading
weights gains more from 4 bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.calibration_loss import calibration_loss
from audiolm_compress.passes.part_calibration import evaluating, part_calibration
from audiolm_compress.passes.targets import matches
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.planning.work import lone_row
from audiolm_compress.quantization.blocks import target_linears
from audiolm_compress.quantization.layer_inputs import counted
from audiolm_compress.quantization.low_rank import (
    RANK_MULTIPLE,
    LowRankLinear,
    OutputStatistics,
    Spectrum,
    allot_ranks,
    factorise,
    largest_rank,
    numbers,
    output_spectrum,
)
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.structure import PARTS

Part = Literal["speech_encoder", "audio_encoder", "connector", "llm"]


class LowRank(Pass):
    """Factorise the linear layers of parts of the model."""

    kind: Literal["low_rank"] = Field("low_rank", alias="pass")
    parts: tuple[Part, ...] = Field(
        ("speech_encoder",), min_length=1, description="Parts whose linear layers are factorised."
    )
    energy: float | None = Field(
        None, gt=0, lt=1, description="Share of each layer's output variance to keep, such as 0.99."
    )
    budget: float | None = Field(
        None, gt=0, lt=1, description="Bytes of the chosen layers afterwards, as a share of those now."
    )
    skip: tuple[str, ...] = Field(
        (), description="Patterns with * and ? of full names to leave, such as ``*.fc2``."
    )
    batch_size: int = Field(8, ge=1, description="Calibration clips that are computed together.")
    loss_clips: int = Field(
        32, ge=1, description="Calibration clips, of each task in turn, whose loss is taken before and after."
    )

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> LowRank:
        if (self.energy is None) == (self.budget is None):
            raise ValueError("low_rank: give energy or budget, and not both")
        return self

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Measure all layers on the model as it is, choose ranks, replace.

        Raises:
            PassError: a part is missing, a pattern matches nothing, no layer can be factorised, there is too
                little calibration data, or the budget is out of reach.
        """
        linears, notes = self._targets(model)
        if not context.calibration:
            raise PassError("low_rank: no calibration clips; give calibration data")
        spectra: dict[str, Spectrum] = {}
        for part in [part for part in PARTS if part in self.parts]:
            own = {name: linear for name, linear in linears.items() if name.startswith(f"{part}.")}
            with evaluating(model):
                spectra |= _spectra(model, part, own, context, self.batch_size)
        silent = [name for name in linears if name not in spectra]
        notes += _left_silent(silent)
        called = {name: linear for name, linear in linears.items() if name in spectra}
        ranks = self._ranks(called, spectra)
        left = [name for name in called if ranks[name] is None]
        if left:
            why = "within the budget" if self.energy is None else "as their rank would save nothing"
            notes.append(f"{len(left)} layers left whole, {why}: {', '.join(left)}")
        chosen = {name: rank for name, rank in ranks.items() if rank is not None}
        if not chosen:
            return PassReport(
                changed=False,
                summary=f"energy={self.energy}: the ranks would save nothing in any of {len(called)} layers",
                notes=notes,
            )
        return self._replace(model, context, called, spectra, chosen, notes)

    def predict(self, sketch: Sketch) -> None:
        """A budget is taken to be spread evenly; what an energy gives only the data will tell."""
        linears, notes = self._targets(sketch.model)
        silent = {name: linears.pop(name) for name in list(linears) if lone_row(name, sketch.model)}
        sketch.notes += [*notes, *_left_silent(list(silent))]
        for part in self.parts:
            sketch.run_part(part, sketch.calibration_clips)
        sketch.flops += sum(20 * min(linear.weight.shape) ** 3 for linear in linears.values())  # eigenvectors
        clips = min(self.loss_clips, sketch.calibration_clips)
        sketch.run_clips(2 * clips)
        if self.budget is None:
            sketch.notes.append("ranks by energy follow from the data; taken to change nothing")
            return
        sketch.notes.append("the ranks follow from the data; the budget is spread evenly here")
        for name, linear in linears.items():
            inputs, outputs = linear.in_features, linear.out_features
            even = math.ceil(self.budget * inputs * outputs / (inputs + outputs) / RANK_MULTIPLE)
            rank = min(even * RANK_MULTIPLE, largest_rank(linear))
            with sketch.empty():
                module = LowRankLinear(inputs, outputs, rank).to(linear.weight.dtype)
            sketch.model.replace_module(name, module)

    def rehearsed(self, model: Salmonn) -> Pass:
        """Small layers cannot be factorised far: a budget is taken that narrow ones can meet."""
        changes: dict[str, Any] = {"loss_clips": 2}
        if self.budget is not None:
            changes["budget"] = max(self.budget, 0.9)
        return self.model_copy(update=changes)

    def _targets(self, model: Salmonn) -> tuple[dict[str, nn.Linear], list[str]]:
        """Full name -> layer that could be factorised, and notes on those that could not."""
        absent = [part for part in self.parts if part not in model.parts()]
        if absent:
            raise PassError(
                f"low_rank: the model has no {', '.join(absent)}; it has {', '.join(model.parts())}"
            )
        head = model.causal_lm.get_output_embeddings()
        factors = {
            id(child)
            for module in model.modules()
            if isinstance(module, LowRankLinear)
            for child in module.children()
        }
        found = {
            f"{part}.{name}": linear
            for part in PARTS
            if part in self.parts
            for name, linear in target_linears(model.get_submodule(part)).items()
            if linear is not head and id(linear) not in factors
        }
        for pattern in self.skip:
            if not any(matches(name, pattern) for name in found):
                raise PassError(f"low_rank: skip {pattern!r} matches no layer; there is {', '.join(found)}")
        asked = {
            name: linear
            for name, linear in found.items()
            if not any(matches(name, pattern) for pattern in self.skip)
        }
        small = [name for name, linear in asked.items() if not largest_rank(linear)]
        linears = {name: linear for name, linear in asked.items() if name not in small}
        if not linears:
            raise PassError(
                f"low_rank: nothing to factorise in {', '.join(self.parts)}: of {len(found)} linear layers "
                f"{len(found) - len(asked)} are skipped and {len(small)} too small; put the pass before "
                "those that quantise, or take it out"
            )
        return linears, [f"{len(small)} layers too small for any rank: {', '.join(small)}"] if small else []

    def _ranks(
        self, linears: Mapping[str, nn.Linear], spectra: Mapping[str, Spectrum]
    ) -> dict[str, int | None]:
        """Rank of each layer, None to leave it."""
        if self.energy is not None:
            needed = {name: spectra[name].rank(self.energy) for name in linears}
            return {
                name: needed[name] if needed[name] <= largest_rank(linear) else None
                for name, linear in linears.items()
            }
        assert self.budget is not None
        try:
            return allot_ranks(linears, spectra, self.budget)
        except ValueError as error:
            raise PassError(f"low_rank: budget={self.budget} is out of reach: {error}; raise it") from error

    def _replace(
        self,
        model: Salmonn,
        context: Context,
        linears: Mapping[str, nn.Linear],
        spectra: Mapping[str, Spectrum],
        ranks: Mapping[str, int],
        notes: Sequence[str],
    ) -> PassReport:
        clips = [context.calibration[index] for index in in_turn(context.calibration, self.loss_clips)]
        loss_before = calibration_loss(model, clips, self.batch_size)
        before = sum(model.weight_bytes().values())
        rows: list[dict[str, Any]] = []
        for name, rank in ranks.items():
            linear = linears[name]
            model.replace_module(name, factorise(linear, spectra[name], rank, context.rng))
            rows.append(
                {
                    "name": name,
                    "rank": rank,
                    "of": min(linear.in_features, linear.out_features),
                    "error": spectra[name].error(rank),
                    "kept": numbers(linear, rank) / numbers(linear),
                }
            )
        saved = before - sum(model.weight_bytes().values())
        now = sum(numbers(linear) * linear.weight.element_size() for linear in linears.values())
        mean = sum(row["error"] for row in rows) / len(rows)
        return PassReport(
            changed=True,
            summary=f"{len(rows)} of {len(linears)} linear layers factorised; "
            f"{mean:.2%} of their outputs' variance left out",
            figures={
                "layers": len(rows),
                "error": mean,
                "bytes_kept": 1 - saved / now,
                "loss_before": loss_before,
                "loss_after": calibration_loss(model, clips, self.batch_size),
                "saved_bytes": saved,
            },
            modules=rows,
            notes=notes,
        )


def _left_silent(names: Sequence[str]) -> list[str]:
    return [f"{len(names)} layers left, as they read no audio: {', '.join(names)}"] if names else []


def _spectra(
    model: Salmonn, part: str, linears: Mapping[str, nn.Linear], context: Context, batch_size: int
) -> dict[str, Spectrum]:
    """Run a part on the calibration clips and decompose what its layers give.

    Layers that read no more than one position a run are missing: those never called, and those that stand
    before the audio, as the Q-Former's first self-attention does.

    Raises:
        PassError: fewer positions than an output has directions.
    """
    examples: Sequence[Example] = context.calibration
    run, masks = part_calibration(model, part, examples, batch_size)
    statistics = {name: OutputStatistics(linear) for name, linear in linears.items()}
    mask: Tensor | None = None

    def hook(name: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            statistics[name].add(counted(args[0], mask), counted(output, mask))

        return note

    handles = [linear.register_forward_hook(hook(name)) for name, linear in linears.items()]
    context.progress.start(f"low_rank: {part}", len(masks) + len(linears))
    try:
        for batch, counts in enumerate(masks):
            mask = counts
            run(batch)
            context.progress.advance()
    finally:
        for handle in handles:
            handle.remove()
    for name, found in statistics.items():
        if len(masks) < found.rows <= found.width:
            raise PassError(
                f"low_rank: the outputs of {name} can vary in {found.width} directions and need more "
                f"calibration positions than that; found {found.rows}; give more or longer calibration data"
            )
    spectra = {}
    for name, linear in linears.items():
        found = statistics.pop(name)  # its memory is free once the layer is decomposed
        if found.rows > len(masks):
            spectra[name] = output_spectrum(linear, found, largest_rank(linear))
        context.progress.advance()
    return spectra
