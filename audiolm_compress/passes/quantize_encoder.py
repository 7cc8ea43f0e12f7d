"""Encoders and connector in 8 bit, weights and activations, so that their products are ones of integers.

Weights get one scale an output; activations are rounded row by row as they come, each row to its own scale
(`quantization/dynamic_int8.py`). Before that, outlier channels are smoothed (SmoothQuant, Xiao et al.,
arXiv:2211.10438, eq. 4; `quantization/smoothing.py`): channel j of a layer's input is divided by

    s_j = max |x_j|^alpha / max |w_j|^(1 - alpha)

and the column of its weights multiplied by it. Nothing is added at inference: the division is folded into the
LayerNorm or value projection that makes the input, where one does and nothing else reads it
(`salmonn/folds.py`). Everywhere else, behind a GELU or a residual branch, a layer is not smoothed, and the
report says how many. A fold that does not lower the error of the layers behind it is taken back.

When it helps: encoders read hundreds of rows at once, so their time is that of arithmetic, and GPUs and CPUs
with VNNI multiply bytes about twice as fast as 16-bit numbers. Weights take half of 16 bit. What it costs:
one forward pass of the encoders over the calibration clips. Where no integer product exists the weights are
8 bit all the same and dequantised at every use; the notes then say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.part_calibration import evaluating
from audiolm_compress.passes.targets import matches
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.blocks import target_linears
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.int8_error import SAMPLE, Seen, output_error, quantized
from audiolm_compress.quantization.modules import kernel_report
from audiolm_compress.quantization.smoothing import fold_factors, smoothing_factors
from audiolm_compress.salmonn.folds import folds
from audiolm_compress.salmonn.model import Salmonn

Part = Literal["speech_encoder", "audio_encoder", "connector"]
PARTS: tuple[Part, ...] = ("speech_encoder", "audio_encoder", "connector")
_FEWEST_OUTPUTS = 16  # smaller layers (BEATs' gates) have next to no weights and all the say


class QuantizeEncoder(Pass):
    """8-bit weights and dynamic 8-bit activations for the linear layers of encoders and connector."""

    kind: Literal["quantize_encoder"] = Field("quantize_encoder", alias="pass")
    parts: tuple[Part, ...] | None = Field(
        None, min_length=1, description="Parts whose linear layers are quantised; null for all that exist."
    )
    smoothing: float = Field(
        0.5, ge=0, le=1, description="Share of the outliers that moves from activations to weights; 0 is off."
    )
    skip: tuple[str, ...] = Field(
        (), description="Patterns of full names with * and ? of layers to leave as they are."
    )
    batch_size: int = Field(8, ge=1, description="Calibration clips that are computed together.")

    @torch.no_grad()
    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Calibrate, smooth, and replace every layer.

        Raises:
            PassError: a part is missing, nothing is left to quantise, a pattern matches nothing, or there are
                no calibration clips.
        """
        targets, left = self._targets(model)
        if not context.calibration:
            raise PassError("quantize_encoder: no calibration clips; give calibration data")
        before = sum(model.weight_bytes().values())
        with evaluating(model):
            seen = self._calibrate(model, targets, context)
        plain = {
            name: output_error(linear, quantized(linear), seen[name]) for name, linear in targets.items()
        }
        smoothed, notes = self._smooth(model, targets, seen) if self.smoothing else (set(), [])
        context.progress.start("quantize_encoder", len(targets))
        rows: list[dict[str, Any]] = []
        warnings: Counter[str] = Counter()
        for name, linear in targets.items():
            layer = Int8Linear.from_linear(linear)
            warnings[layer.prepare()] += 1
            rows.append(
                {
                    "name": name,
                    "inputs": linear.in_features,
                    "outputs": linear.out_features,
                    "smoothed": name in smoothed,
                    "error": output_error(linear, layer, seen[name]),
                    "plain_error": plain[name],
                }
            )
            model.replace_module(name, layer)
            context.progress.advance()
        notes += [f"{count} layers, {warning}" for warning, count in warnings.items() if warning]
        notes += [f"{row['name']}: never called in calibration" for row in rows if row["error"] is None]
        notes += left
        after = sum(model.weight_bytes().values())
        return PassReport(
            changed=True,
            summary=f"{len(rows)} linear layers in 8 bit with 8-bit activations; output error "
            f"{_mean(rows, 'error'):.3%}, without smoothing {_mean(rows, 'plain_error'):.3%}",
            figures={
                "layers": len(rows),
                "smoothed_layers": len(smoothed),
                "error": _mean(rows, "error"),
                "plain_error": _mean(rows, "plain_error"),
                "saved_bytes": before - after,
                **{f"layers by {name}": count for name, count in kernel_report(model).items()},
            },
            modules=rows,
            notes=notes,
        )

    def predict(self, sketch: Sketch) -> None:
        """8-bit layers in the place of the targets; time is one pass over the clips, and measuring errors."""
        targets, _ = self._targets(sketch.model)
        for part in dict.fromkeys(name.partition(".")[0] for name in targets):
            sketch.run_part(part, sketch.calibration_clips)
        for name, linear in targets.items():
            inputs, outputs = linear.in_features, linear.out_features
            sketch.flops += 8 * SAMPLE * inputs * outputs  # plainly and smoothed, dense and in 8 bit
            with sketch.empty():
                layer = Int8Linear(inputs, outputs, bias=linear.bias is not None, dtype=linear.weight.dtype)
            sketch.model.replace_module(name, layer)

    def _targets(self, model: Salmonn) -> tuple[dict[str, nn.Linear], list[str]]:
        """The layers to quantise by full name, and notes on what is left as it is."""
        present = [part for part in PARTS if part in model.parts()]
        absent = [part for part in self.parts or () if part not in present]
        if absent:
            raise PassError(
                f"quantize_encoder: the model has no {', '.join(absent)}; it has {', '.join(present)}"
            )
        parts = [part for part in present if self.parts is None or part in self.parts]
        linears = {
            f"{part}.{name}": linear
            for part in parts
            for name, linear in target_linears(model.get_submodule(part)).items()
        }
        small = [name for name, linear in linears.items() if linear.out_features < _FEWEST_OUTPUTS]
        found = {name: linear for name, linear in linears.items() if name not in small}
        empty = [part for part in parts if not any(name.startswith(f"{part}.") for name in found)]
        if empty and self.parts is not None:
            raise PassError(
                f"quantize_encoder: {empty[0]} has no linear layer left to quantise; take it from the parts"
            )
        notes = [f"{part} passed over: it has no linear layer left to quantise" for part in empty]
        if small:
            names = ", ".join(small)
            notes.append(f"{len(small)} layers of fewer than {_FEWEST_OUTPUTS} outputs left alone: {names}")
        if not found:
            raise PassError(
                f"quantize_encoder: no linear layer is left to quantise in {', '.join(present)}; "
                f"remove the pass"
            )
        for pattern in self.skip:
            if not any(matches(name, pattern) for name in found):
                raise PassError(
                    f"quantize_encoder: skip {pattern!r} matches no layer; names look like "
                    f"{next(iter(found))}"
                )
        skipped = [name for name in found if any(matches(name, pattern) for pattern in self.skip)]
        if len(skipped) == len(found):
            raise PassError("quantize_encoder: every layer is skipped; remove the pass or a pattern")
        if skipped:
            notes.append(f"{len(skipped)} layers skipped: {', '.join(skipped)}")
        return {name: linear for name, linear in found.items() if name not in skipped}, notes

    def _calibrate(
        self, model: Salmonn, targets: Mapping[str, nn.Linear], context: Context
    ) -> dict[str, Seen]:
        """What each layer reads while the encoders and the connector hear the calibration clips."""
        clips = context.calibration
        batches = [clips[start : start + self.batch_size] for start in range(0, len(clips), self.batch_size)]
        seen = {name: Seen() for name in targets}
        share = -(-SAMPLE // len(batches))

        def look(name: str) -> Callable[..., None]:
            return lambda _, args: seen[name].add(args[0], share)

        handles = [linear.register_forward_pre_hook(look(name)) for name, linear in targets.items()]
        context.progress.start("quantize_encoder: calibration", len(batches))
        try:
            for batch in batches:
                model.encode_audio([example.waveform for example in batch])
                context.progress.advance()
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def _smooth(
        self, model: Salmonn, targets: Mapping[str, nn.Linear], seen: Mapping[str, Seen]
    ) -> tuple[set[str], list[str]]:
        """Fold factors wherever that lowers the error; the layers smoothed, and what the report must say."""
        smoothed: set[str] = set()
        worse: list[str] = []
        for fold in folds(model):
            group = {name: seen[name] for name in fold.readers if name in targets and seen[name].rows}
            makers: list[Any] = [model.get_submodule(name) for name in fold.makers]
            readers: list[Any] = [model.get_submodule(name) for name in fold.readers]
            if not group or not all(type(module) in (nn.LayerNorm, nn.Linear) for module in makers + readers):
                continue  # not asked for, or one of them was replaced and cannot take part
            largest = next(iter(group.values())).largest
            assert largest is not None  # there are rows
            weights = torch.stack([reader.weight.abs().amax(0) for reader in readers]).amax(0)
            factors = smoothing_factors(largest, weights, self.smoothing)
            plain = _group_error(targets, group)
            _fold(factors, makers, readers, group)
            if _group_error(targets, group) < plain:
                smoothed |= set(group)
                for name in seen.keys() & set(fold.makers):
                    seen[name].divisors = factors
            else:  # powers of two: taking them back is exact
                _fold(1 / factors, makers, readers, group)
                worse += group
        rest = len(targets) - len(smoothed) - len(worse)
        notes = []
        if rest:
            notes.append(
                f"{rest} layers not smoothed: a non-linearity, a residual branch or a replaced layer makes "
                "what they read"
            )
        if worse:
            notes.append(f"{len(worse)} layers not smoothed, as that raised their error: see their rows")
        return smoothed, notes


def _group_error(targets: Mapping[str, nn.Linear], group: Mapping[str, Seen]) -> float:
    """Sum of the errors of layers that share an input."""
    errors = [output_error(targets[name], quantized(targets[name]), seen) for name, seen in group.items()]
    return sum(error for error in errors if error is not None)


def _fold(factors: Tensor, makers: list[Any], readers: list[Any], group: Mapping[str, Seen]) -> None:
    """Move ``factors`` [in], and have what was seen follow."""
    fold_factors(factors, makers, readers)
    for seen in group.values():
        seen.divide(factors)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / max(1, len(values))
