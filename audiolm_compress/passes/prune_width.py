"""Remove FFN channels and attention heads: every layer of a part keeps the same smaller number.

A channel of an FFN is a row of its first Linears (``fc1``; gate and up of a gated one) and a column of its
last; a head is the rows of its query, key and value and the columns of the output projection. Where query
heads share a key and value head, that whole group goes: what is left is a valid model, and its KV cache
shrinks too. Which ones go is decided in each layer by the importance of their weights w, with Torch-Pruning
(arXiv:2301.12900; its dependency graph finds the coupled Linears of an FFN, see ``pruning/groups.py``):

* ``taylor``: sum |w g|, g the gradient of the calibration loss (arXiv:1906.10771);
* ``activation``: mean x_j^2 |w_j|^2, the output that the last Linear loses with its column j
  (as Wanda, arXiv:2306.11695);
* ``magnitude``: sum w^2, without any data.

BEATs is special: its layers share one table of relative positions with a column for each head, so that head h
looks at the same distances in all layers. All layers there lose the same heads, those whose importance,
relative to the mean of their layer, is least in sum; layers with heads of their own would each need a table.

With ``reconstruct`` the last Linear is then fitted to what is left (``pruning/reconstruct.py``): of all
matrices on the kept channels it gets, but for a small ridge, the one whose output on calibration clips is
nearest to the whole FFN's or attention's. Attention comes first, so that the FFNs are fitted behind the
narrower attention.

When it helps: FFNs hold two thirds of a layer's weights and operations; both fall with the share that is
removed, without any special kernel. What it costs: accuracy at once, so recovery training should follow; one
forward pass over the calibration clips for each gigabyte of statistics (n^2 floats for an FFN of n channels),
and for ``taylor`` a backward pass, clip by clip. It takes the memory of the part's weights again, for their
gradients, and that of what one clip leaves for them in all layers: about 4 GB for Whisper-large at 30 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from peft import PeftModel
from pydantic import Field, model_validator
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.calibration_loss import calibration_loss, clip_losses, require_finite
from audiolm_compress.passes.part_calibration import evaluating, part_calibration
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.pruning.choice import best, kept_number, together
from audiolm_compress.pruning.groups import columns, importance, remove_units, unit_scores
from audiolm_compress.pruning.inner import Inner, narrow, read_attention, read_ffn
from audiolm_compress.pruning.reconstruct import Correction, correct
from audiolm_compress.pruning.statistics import Masks, Runs, gradients, mean_squares, second_moments
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.widths import head_dim, set_widths
from audiolm_compress.settings import refuse_idle

STATISTICS_BYTES = 2**30  # held at a time for the FFNs
Kept = list[tuple[Inner, list[int]]]


class PruneWidth(Pass):
    """Remove FFN channels and attention heads of one part."""

    kind: Literal["prune_width"] = Field("prune_width", alias="pass")
    part: Literal["speech_encoder", "audio_encoder", "llm"] = Field(description="Part that gets narrower.")
    ffn: float = Field(1.0, gt=0, le=1, description="Share of each layer's FFN channels that stays.")
    heads: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of each layer's attention heads that stays; in an LLM of its key and value heads, "
        "with the query heads that share them.",
    )
    importance: Literal["taylor", "activation", "magnitude"] = Field(
        "taylor",
        description="What decides: weight times gradient of the calibration loss, lost output, or weight.",
    )
    round_to: int = Field(
        32, ge=1, description="The kept FFN channels are a multiple of this, as kernels want."
    )
    reconstruct: bool = Field(
        True,
        description="Fit the last Linear of each FFN and attention to what is left, on calibration clips.",
    )
    clips: int = Field(
        128, ge=1, description="Calibration clips, of each task in turn, for importance, fit and loss."
    )
    batch_size: int = Field(
        8, ge=1, description="Calibration clips that are computed together; for gradients always one."
    )

    @model_validator(mode="after")
    def _something_is_to_go(self) -> PruneWidth:
        if self.ffn == 1 and self.heads == 1:
            raise ValueError("prune_width: give ffn or heads below 1")
        if self.ffn == 1:
            refuse_idle(self, "round_to", beside="ffn=1", instead="give ffn below 1")
        return self

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Choose on the whole model, cut, fit, and take the calibration loss before and after.

        Raises:
            PassError: no such part, an FFN or attention of unknown build or of packed weights, unmerged LoRA,
                a share that leaves nothing, or, where needed, no calibration clips or no finite loss.
        """
        ffns, attentions, notes = self._targets(model)
        if not ffns and not attentions:
            return PassReport(changed=False, summary=f"nothing of {self.part} was to go", notes=notes)
        examples = [context.calibration[index] for index in in_turn(context.calibration, self.clips)]
        if not examples and (self.reconstruct or self.importance != "magnitude"):
            raise PassError(
                "prune_width: there are no calibration clips for importance and reconstruction; give "
                "calibration data, or set importance to magnitude and reconstruct to false"
            )
        before = sum(model.weight_bytes().values())
        context.progress.start(f"prune_width: {self.part}", 4)
        figures: dict[str, Any] = {}
        if examples:
            figures["loss_before"] = calibration_loss(model, examples, self.batch_size)
        if self.reconstruct:
            require_finite(figures["loss_before"], "prune_width")
        context.progress.advance()
        with evaluating(model):
            heads, channels = self._choose(model, attentions, ffns, examples)
            context.progress.advance()
            runs: Runs = ()
            masks: Masks = ()
            if self.reconstruct:
                run, masks = part_calibration(model, self.part, examples, self.batch_size)
                runs = [partial(run, index) for index in range(len(masks))]
            rows = self._cut(heads, runs, masks)
            if heads:
                set_widths(model, self.part, kept_heads=heads[0][1])
            for chunk in _chunks(channels):
                rows += self._cut(chunk, runs, masks)
            if channels:
                set_widths(model, self.part, ffn=len(channels[0][1]))
        context.progress.advance()
        if examples:
            figures["loss_after"] = calibration_loss(model, examples, self.batch_size)
        else:
            notes.append("no calibration clips, so the loss is not known")
        context.progress.advance()
        return self._report(rows, figures, notes, before - sum(model.weight_bytes().values()))

    def predict(self, sketch: Sketch) -> None:
        """The part gets narrower; which channels go makes no difference to its size."""
        model = sketch.model
        ffns, attentions, _ = self._targets(model)
        if not ffns and not attentions:
            return
        clips = min(self.clips, sketch.calibration_clips)
        # The loss before and after; a backward pass costs twice its forward pass.
        sketch.run_clips(clips * (4 if self.importance == "taylor" else 1))
        runs = (self.importance == "activation") + self.reconstruct * (
            bool(attentions) + len(_chunks([(inner, []) for inner in ffns]))
        )
        sketch.run_part(self.part, clips * runs)
        for inners, field in ((attentions, "heads"), (ffns, "ffn")):
            for inner in inners:
                narrow(inner, self._number(inner.units, field))
        if attentions:
            set_widths(model, self.part, kept_heads=range(self._number(attentions[0].units, "heads")))
        if ffns:
            set_widths(model, self.part, ffn=self._number(ffns[0].units, "ffn"))
        sketch.run_clips(clips)

    def rehearsed(self, model: Salmonn) -> Pass:
        """Shares that leave something of few heads and narrow FFNs, on two clips."""
        changes = {"ffn": max(self.ffn, 0.5), "heads": max(self.heads, 0.5), "round_to": 1, "clips": 2}
        return self.model_copy(update=changes)

    def _targets(self, model: Salmonn) -> tuple[list[Inner], list[Inner], list[str]]:
        """FFNs and attentions that lose something, and what was rounded; nothing is changed here."""
        if self.part not in model.parts():
            raise PassError(f"prune_width: the model has no {self.part}; it has {', '.join(model.parts())}")
        if self.part == "llm" and isinstance(model.llm, PeftModel):
            raise PassError("prune_width: the LLM has an unmerged LoRA; put merge_lora before it")
        layers = {f"{self.part}.layers.{index}": layer for index, layer in enumerate(model.layers(self.part))}
        notes: list[str] = []
        ffns: list[Inner] = []
        attentions: list[Inner] = []
        if self.ffn < 1:
            ffns = self._checked([read_ffn(*item) for item in layers.items()], "ffn", notes)
        if self.heads < 1:
            dim = head_dim(model, self.part)
            read = [read_attention(name, layer, dim) for name, layer in layers.items()]
            attentions = self._checked(read, "heads", notes)
        return ffns, attentions, notes

    def _checked(self, inners: list[Inner], field: Literal["ffn", "heads"], notes: list[str]) -> list[Inner]:
        """``inners`` if some of their units are to go, an empty list if rounding leaves all of them."""
        totals = sorted({inner.units for inner in inners})
        if len(totals) > 1:
            raise PassError(
                f"prune_width: layers of {self.part} have {totals} units each; leave {field} at 1.0"
            )
        kept = self._number(totals[0], field)
        if kept == 0:
            what = f"channels, round_to is {self.round_to}" if field == "ffn" else "heads"
            raise PassError(
                f"prune_width: {field}={getattr(self, field)} leaves nothing of {self.part}, which has "
                f"{totals[0]} {what}; raise {field}" + (" or lower round_to" if field == "ffn" else "")
            )
        if kept == totals[0]:
            notes.append(f"{field}={getattr(self, field)} of {totals[0]} is rounded to all of them")
            return []
        return inners

    def _number(self, total: int, field: str) -> int:
        share, multiple = (self.ffn, self.round_to) if field == "ffn" else (self.heads, 1)
        return kept_number(total, share, multiple)

    def _choose(
        self, model: Salmonn, attentions: Sequence[Inner], ffns: Sequence[Inner], examples: Sequence[Example]
    ) -> tuple[Kept, Kept]:
        """The units that stay in each attention and FFN, by importance in the whole model."""
        inners = [*attentions, *ffns]
        squares: dict[nn.Linear, Tensor] | None = None
        if self.importance == "activation":
            run, masks = part_calibration(model, self.part, examples, self.batch_size)
            runs = [partial(run, index) for index in range(len(masks))]
            squares = mean_squares([inner.reader for inner in inners], runs, masks)
        weights = [linear.weight for inner in inners for linear in (*inner.writers, inner.reader)]
        losses = clip_losses(model, examples)
        with gradients(weights, losses) if self.importance == "taylor" else nullcontext():
            score = importance(self.importance, squares)
            scores = [unit_scores(inner, score) for inner in inners]
        for inner, values in zip(inners, scores, strict=True):
            if not torch.isfinite(values).all():
                raise PassError(
                    f"prune_width: the {self.importance} importance in {inner.name} is not finite; "
                    "take importance: magnitude, or weights of bfloat16 or float32"
                )
        heads, channels = scores[: len(attentions)], scores[len(attentions) :]
        if self.part == "audio_encoder" and heads:
            heads = [together(heads)] * len(heads)
        return (
            [(i, best(s, self._number(i.units, "heads"))) for i, s in zip(attentions, heads, strict=True)],
            [(i, best(s, self._number(i.units, "ffn"))) for i, s in zip(ffns, channels, strict=True)],
        )

    def _cut(self, kept: Kept, runs: Runs, masks: Masks) -> list[dict[str, Any]]:
        """Remove all but the kept units and fit the readers; one row of figures a layer."""
        moments = second_moments([inner.reader for inner, _ in kept], runs, masks)
        rows: list[dict[str, Any]] = []
        for inner, units in kept:
            reader = inner.reader
            width = "ffn" if inner.module is not None else "heads"
            row: dict[str, Any] = {"name": inner.name, "width": width, "kept": len(units), "of": inner.units}
            fitted: Correction | None = None
            if self.reconstruct:
                statistics = moments.pop(reader)
                fitted = correct(reader.weight, reader.bias, statistics, columns(inner, units))
                row |= {"error_removed": fitted.error_removed, "error": fitted.error}
            remove_units(inner, units)
            if fitted is not None:
                reader.weight.copy_(fitted.weight)
                if reader.bias is not None and fitted.bias is not None:
                    reader.bias.copy_(fitted.bias)
            rows.append(row)
        return rows

    def _report(
        self, rows: list[dict[str, Any]], figures: dict[str, Any], notes: list[str], saved: int
    ) -> PassReport:
        told = []
        for width, name in (("ffn", "FFN channels"), ("heads", "heads")):
            chosen = [row for row in rows if row["width"] == width]
            if not chosen:
                continue
            first = chosen[0]
            name = "KV heads" if self.part == "llm" and width == "heads" else name
            told.append(f"{first['kept']} of {first['of']} {name}")
            figures |= {f"{width}_kept": first["kept"], f"{width}_of": first["of"]}
            for error in ("error_removed", "error") if self.reconstruct else ():
                figures[f"{width}_{error}"] = sum(row[error] for row in chosen) / len(chosen)
        if "loss_before" in figures:
            told.append(f"calibration loss {figures['loss_before']:.4f} -> {figures['loss_after']:.4f}")
        return PassReport(
            changed=True,
            summary=f"{self.part} keeps " + "; ".join(told),
            figures={**figures, "saved_bytes": saved},
            modules=rows,
            notes=notes,
        )


def _chunks(kept: Kept) -> list[Kept]:
    """Consecutive FFNs whose statistics fit into ``STATISTICS_BYTES``; at least one each."""
    chunks: list[Kept] = []
    size = 0
    for inner, units in kept:
        own = 4 * (inner.reader.in_features + 1) ** 2
        if not chunks or size + own > STATISTICS_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append((inner, units))
        size += own
    return chunks
