"""Drop whole Transformer layers of an encoder or of the LLM.

Each layer adds to a stream of hidden states; where it adds little, the layers behind it hardly notice that it
is gone. Four ways to choose:

* ``even``: of L layers keep K, number floor(k (L - 1) / (K - 1) + 1/2) for k = 0 .. K - 1: evenly spaced, the
  first and the last among them (K = 1 keeps the first).
* ``indices``: drop the layers that are named.
* ``block_influence``: drop the layers that turn the hidden states least (ShortGPT, arXiv:2403.03853, eq. 1),

      BI_i = 1 - mean over positions t of cos(x_i,t , x_i+1,t)

  where x_i goes into layer i and x_i+1 comes out. All are measured once, on the whole model.
* ``greedy``: again and again drop the layer without which the calibration loss is lowest. It sees that two
  layers can stand in for each other, which influence does not, and costs (L - K)(L + K + 1) / 2 evaluations
  of the loss instead of one.

When it helps: bytes, time to first token and, in the LLM, time per token all fall with the share of dropped
layers, without any special kernel. What it costs: accuracy at once; two of Whisper-large's 32 layers are won
back by a short recovery training, a quarter of them needs a longer one. The report tells the calibration loss
after each dropped layer, so that a recipe can stop where it begins to rise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.calibration_loss import require_finite
from audiolm_compress.passes.part_calibration import evaluating, part_calibration
from audiolm_compress.passes.without_layers import LossWithout, loss_without
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.blocks import Replay, hidden_states
from audiolm_compress.salmonn.model import Salmonn


def evenly_spaced(layers: int, keep: int) -> list[int]:
    """Which ``keep`` of ``layers`` stay; the first and the last are among them if ``keep`` is above 1.

    >>> evenly_spaced(6, 3)
    [0, 3, 5]
    """
    if keep == 1:
        return [0]
    return [(2 * k * (layers - 1) + keep - 1) // (2 * (keep - 1)) for k in range(keep)]


def block_influence(layers: Sequence[nn.Module], run: Replay, masks: Sequence[Tensor | None]) -> list[float]:
    """BI of each layer: 0 for one that only scales its input, 2 for one that turns it around.

    Args:
        layers: called with hidden states [batch, time, width], which they return changed.
        run: runs all layers on the batch of that number.
        masks: per batch, [batch, time], 0 where a position does not count; None counts all.
    """
    totals, positions = [0.0] * len(layers), 0
    mask: Tensor | None = None

    def hook(index: int) -> Callable[..., None]:
        def compare(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            nonlocal positions
            before = hidden_states(args, kwargs).float()
            cosine = torch.cosine_similarity(before, output.float(), dim=-1)
            counted = cosine if mask is None else cosine[mask.bool()]
            totals[index] += float(counted.double().sum())
            positions += counted.numel() if index == 0 else 0

        return compare

    handles = [
        layer.register_forward_hook(hook(index), with_kwargs=True) for index, layer in enumerate(layers)
    ]
    try:
        for batch, counts in enumerate(masks):
            mask = counts
            run(batch)
    finally:
        for handle in handles:
            handle.remove()
    return [1.0 - total / positions for total in totals]


class LayerDrop(Pass):
    """Drop layers of one part of the model."""

    kind: Literal["layer_drop"] = Field("layer_drop", alias="pass")
    part: Literal["speech_encoder", "audio_encoder", "llm"] = Field(description="Part that loses layers.")
    method: Literal["even", "indices", "block_influence", "greedy"] = Field(
        "greedy", description="How the layers are chosen."
    )
    keep: int | None = Field(None, ge=1, description="Number of layers that stay; not with ``indices``.")
    drop: tuple[int, ...] | None = Field(
        None, min_length=1, description="Layers to drop, counted from 0; with ``indices`` only."
    )
    loss_clips: int = Field(
        32, ge=1, description="Calibration clips, of each task in turn, for the loss and the influence."
    )
    batch_size: int = Field(8, ge=1, description="Clips that are computed together.")

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> LayerDrop:
        wanted, other = ("drop", "keep") if self.method == "indices" else ("keep", "drop")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"layer_drop: method {self.method} needs {wanted} and must not have {other}")
        return self

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Choose, measure the loss after each layer that goes, and drop them.

        Raises:
            PassError: no such part or layer, nothing to drop, or where they are needed no calibration clips
                or a loss that is not finite.
        """
        depth = self._depth(model)
        examples = [context.calibration[index] for index in in_turn(context.calibration, self.loss_clips)]
        if not examples and self.method in ("block_influence", "greedy"):
            raise PassError(f"layer_drop: {self.method} needs calibration clips; give calibration data")
        rows: list[dict[str, Any]] = []
        notes: list[str] = []
        figures: dict[str, Any] = {"layers_before": depth}
        if not examples:
            order = self._settled(depth)
            rows = [{"layer": layer} for layer in order]
            notes.append("no calibration clips, so the loss is not known")
        else:
            with evaluating(model), loss_without(model, self.part, examples, self.batch_size) as loss:
                figures["loss_before"] = loss(())
                if self.method == "greedy":
                    require_finite(figures["loss_before"], "layer_drop")
                    rows = self._greedy(depth, loss, context)
                else:
                    rows = self._rows(model, examples, depth)
                    context.progress.start(f"layer_drop: {self.part}", len(rows))
                    for count, row in enumerate(rows, 1):
                        row["loss"] = loss([row["layer"] for row in rows[:count]])
                        context.progress.advance()
                figures["loss_after"] = rows[-1]["loss"]
        dropped = [row["layer"] for row in rows]
        before = sum(model.weight_bytes().values())
        model.keep_layers(self.part, [layer for layer in range(depth) if layer not in dropped])
        figures |= {
            "layers_after": depth - len(dropped),
            "saved_bytes": before - sum(model.weight_bytes().values()),
        }
        told = ""
        if examples:
            told = f"; calibration loss {figures['loss_before']:.4f} -> {figures['loss_after']:.4f}"
        return PassReport(
            changed=True,
            summary=f"dropped {len(dropped)} of {depth} layers of {self.part} ({self.method}): "
            f"{', '.join(map(str, dropped))}{told}",
            figures=figures,
            modules=[{"name": f"{self.part} layer {row['layer']}"} | row for row in rows],
            notes=notes,
        )

    def predict(self, sketch: Sketch) -> None:
        """The layers go; where data decides which, the smallest ones are taken to."""
        depth = self._depth(sketch.model)
        layers = sketch.model.layers(self.part)
        sizes = [sum(p.nbytes for p in [*layer.parameters(), *layer.buffers()]) for layer in layers]
        if self.keep is None or self.method == "even":
            dropped = self._settled(depth)
        else:
            dropped = sorted(range(depth), key=lambda layer: sizes[layer])[: depth - self.keep]
            if len(set(sizes)) > 1:
                sketch.notes.append(f"data decides which layers of {self.part} go; they differ in size")
        runs = 1 + len(dropped)
        if self.method == "greedy":
            runs = 1 + sum(range(depth - len(dropped) + 1, depth + 1))
        again = ("llm",) if self.part == "llm" else (self.part, "connector", "llm")
        clips = min(self.loss_clips, sketch.calibration_clips)
        for part in sketch.model.parts():
            sketch.run_part(part, clips * (runs if part in again else 1))
        sketch.model.keep_layers(self.part, [layer for layer in range(depth) if layer not in dropped])

    def rehearsed(self, model: Salmonn) -> Pass:
        """One layer goes, and the loss is taken on one clip.

        Where greedy would choose it is the last one: asking the loss about each of 32 layers takes minutes
        even on a narrow encoder, and goes no other way than asking about one.
        """
        if self.part not in model.parts() or len(model.layers(self.part)) < 2:
            return self
        last = len(model.layers(self.part)) - 1
        changes: dict[str, Any] = {"keep": last}
        if self.method in ("indices", "greedy"):
            changes = {"method": "indices", "keep": None, "drop": (last,)}
        return self.model_copy(update=changes | {"loss_clips": 1})

    def _depth(self, model: Salmonn) -> int:
        """How many layers the part has.

        Raises:
            PassError: there is no such part, or so many layers cannot give what is asked for.
        """
        if self.part not in model.parts():
            raise PassError(f"layer_drop: the model has no {self.part}; it has {', '.join(model.parts())}")
        depth = len(model.layers(self.part))
        if self.keep is not None and self.keep >= depth:
            raise PassError(f"layer_drop: keep={self.keep}, but {self.part} has {depth} layers; lower keep")
        wrong = sorted({layer for layer in self.drop or () if not 0 <= layer < depth})
        if wrong:
            raise PassError(f"layer_drop: {self.part} has layers 0 to {depth - 1}; there is no {wrong}")
        if len(set(self.drop or ())) != len(self.drop or ()):
            raise PassError(f"layer_drop: drop={list(self.drop or ())} names a layer twice")
        if len(self.drop or ()) == depth:
            raise PassError(f"layer_drop: drop names all {depth} layers of {self.part}; leave one")
        return depth

    def _settled(self, depth: int) -> list[int]:
        """The dropped layers of the methods that need no data."""
        if self.drop is not None:
            return list(self.drop)
        assert self.keep is not None
        kept = evenly_spaced(depth, self.keep)
        return [layer for layer in range(depth) if layer not in kept]

    def _rows(self, model: Salmonn, examples: Sequence[Any], depth: int) -> list[dict[str, Any]]:
        """One row a dropped layer, in order, of every method but greedy."""
        if self.method != "block_influence":
            return [{"layer": layer} for layer in self._settled(depth)]
        assert self.keep is not None
        run, masks = part_calibration(model, self.part, examples, self.batch_size)
        influence = block_influence(list(model.layers(self.part)), run, masks)
        order = sorted(range(depth), key=lambda layer: influence[layer])[: depth - self.keep]
        return [{"layer": layer, "influence": influence[layer]} for layer in order]

    def _greedy(self, depth: int, loss: LossWithout, context: Context) -> list[dict[str, Any]]:
        """One row a dropped layer, in order."""
        assert self.keep is not None
        left = list(range(depth))
        rows: list[dict[str, Any]] = []
        context.progress.start(f"layer_drop: {self.part}", sum(range(self.keep + 1, depth + 1)))
        while len(left) > self.keep:
            losses = {}
            for layer in left:
                losses[layer] = loss([*(row["layer"] for row in rows), layer])
                context.progress.advance()
            best = min(left, key=lambda layer: losses[layer])
            left.remove(best)
            rows.append({"layer": best, "loss": losses[best]})
        return rows
