"""GPTQ: linear layers in 2, 3, 4 or 8 bit, with the rounding errors steered to where they hurt least.

Frantar et al., arXiv:2210.17323. For each layer the mean of x x^T over calibration inputs says how an error
in one weight can be made good by the others; the mathematics is in `quantization/gptq.py`. Three choices
matter for audio language models:

* Calibration runs **with audio through the connector and the reference text**, all tasks mixed: the LLM is
  quantised for the inputs it will see, not for text alone.
* Blocks are quantised in order, and within a block the layers that share an input, each on what the quantised
  ones before it produce. One block's statistics are in memory at a time.
* Positions of padding are not counted.

When it helps: 4 bit with groups of 32 to 128 is nearly free for LLMs of a billion parameters and more; small
models want groups of 32. 3 bit is a cliff, 2 bit needs training afterwards, encoders are best left at 8 bit.
What it costs: about two forward passes over the calibration data per block, and at 2 or 3 bit speed, as no
fast kernel exists. ``bits: auto`` chooses among widths layer by layer (`passes/mixed_precision.py`).
``engine: gptqmodel`` lets GPTQModel's solver work on the same statistics (`quantization/gptqmodel.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.gptq_engine import SOLVERS, Engine, engine_notes, require_engine
from audiolm_compress.passes.gptq_report import gptq_report
from audiolm_compress.passes.gptq_schemes import Bits, GroupSize, Override, scheme_of, stored_scheme
from audiolm_compress.passes.gptq_targets import FEWEST_OUTPUTS, gptq_targets
from audiolm_compress.passes.mixed_precision import Allocation, Measuring, Open, assume, choose
from audiolm_compress.passes.part_calibration import (
    calibration_positions,
    evaluating,
    part_calibration,
    shared_clips,
)
from audiolm_compress.planning.sketch import Sketch, empty_linear
from audiolm_compress.planning.work import Clip
from audiolm_compress.quantization.blocks import find_blocks
from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.kernel_choice import choose_kernel
from audiolm_compress.quantization.layerwise import (
    Layer,
    Options,
    quantize_blocks,
    quantize_linears,
    require_positions,
)
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.settings import refuse_idle

Part = Literal["speech_encoder", "audio_encoder", "connector", "llm"]


class Gptq(Pass):
    """Quantise the linear layers of parts of the model."""

    kind: Literal["gptq"] = Field("gptq", alias="pass")
    parts: tuple[Part, ...] = Field(
        ("llm",), min_length=1, description="Parts whose linear layers are quantised."
    )
    bits: Literal[2, 3, 4, 8, "auto"] = Field(
        4, description="Bits of a weight; `auto`: of each layer, by its measured sensitivity."
    )
    average_bits: float | None = Field(
        None, description="With `auto`: mean bits of a weight that layers without bits of their own may take."
    )
    bit_choices: tuple[Bits, ...] = Field(
        (2, 3, 4, 8), min_length=2, description="With `auto`: the bits that layers may get."
    )
    sensitivity_clips: int = Field(
        8, ge=1, description="With `auto`: calibration clips, of each task in turn, that it is measured on."
    )
    group_size: GroupSize = Field(128, description="Inputs that share a scale; -1 for whole rows.")
    symmetric: bool = Field(True, description="Grids without stored zero points.")
    progressive: bool = Field(
        False,
        description="Group scales as multiples -15 to 15 of a unit per output: a byte each, and 4-bit layers "
        "take a fifth less time for a hundred positions. Overrides without groups, of 8 bits or with zero "
        "points are stored as without it.",
    )
    act_order: bool = Field(True, description="Round the inputs of largest mean square first.")
    damping: float = Field(
        0.01, gt=0, le=1, description="Share of the mean added to the diagonal of the statistics."
    )
    prefill_activations: Literal[8, 16] = Field(
        8,
        description="Bits of the inputs of 4- and 8-bit layers where several positions of a clip are "
        "computed at once; 8 rounds each position's to 255 levels, all but 16 inputs of large values, and "
        "takes about half the time. Single positions, one of each clip and beam, are always 16 bit.",
    )
    overrides: tuple[Override, ...] = Field(
        (), description="Exceptions by name; the last that matches counts."
    )
    batch_size: int = Field(8, ge=1, description="Calibration clips that are computed together.")
    engine: Engine = Field(
        "audiolm_compress",
        description="Who chooses codes and scales, on the same calibration inputs: this package, or "
        "GPTQModel's solver, which must be installed (extra gptqmodel).",
    )

    @model_validator(mode="after")
    def _auto_has_an_average(self) -> Gptq:
        if self.bits != "auto":
            names = ("average_bits", "bit_choices", "sensitivity_clips")
            refuse_idle(self, *names, beside=f"bits={self.bits}", instead="give bits: auto")
            return self
        if len(set(self.bit_choices)) < len(self.bit_choices):
            raise ValueError(f"bit_choices names a width twice: {', '.join(map(str, self.bit_choices))}")
        low, high = min(self.bit_choices), max(self.bit_choices)
        if self.average_bits is None or not low <= self.average_bits <= high:
            raise ValueError(
                f"bits: auto needs average_bits between {low} and {high}, the least and the most of "
                f"bit_choices; found {self.average_bits}"
            )
        return self

    @model_validator(mode="after")
    def _progressive_is_possible(self) -> Gptq:
        usual = stored_scheme(self._least, self.group_size, self.symmetric, self.progressive)
        if self.progressive and not usual.progressive:
            raise ValueError(
                f"progressive scales need symmetric grids, at most 4 bits and a group size; found "
                f"bits={self.bits}, group_size={self.group_size}, symmetric={self.symmetric}"
            )
        return self

    @model_validator(mode="after")
    def _engine_can(self) -> Gptq:
        if self.engine == "gptqmodel":
            if self.progressive:
                raise ValueError("engine: gptqmodel has no progressive scales; leave progressive out")
            if self.damping == 1:
                raise ValueError("engine: gptqmodel needs a damping below 1; found 1")
        return self

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Quantise part after part, in the order in which data flows, each on what the ones before it give.

        Raises:
            PassError: a part is missing or has no linear layer, an override matches nothing, there is too
                little calibration data, or the engine is not installed or cannot take a layer.
        """
        targets, small = gptq_targets(model, self.parts, self.overrides)
        if not context.calibration:
            raise PassError("gptq: no calibration clips; give calibration data")
        chosen: Allocation | None = None
        if self.average_bits is not None:
            chosen = choose(model, self._left_open(targets), self._measuring(self.average_bits), context)
        schemes = self._schemes(targets, chosen)
        require_engine(self.engine, targets, schemes)
        examples, total = shared_clips(context.calibration, self.batch_size)
        before = sum(model.weight_bytes().values())
        layers: list[Layer] = []
        for part in targets:
            blocks = {
                f"{part}.{name}": block for name, block in find_blocks(model.get_submodule(part)).items()
            }
            context.progress.start(f"gptq: {part}", len(blocks) + 1)
            options = Options(
                schemes.get,
                model.replace_module,
                self.act_order,
                self.damping,
                self.prefill_activations,
                context.progress.advance,
                total,
                SOLVERS[self.engine],
            )
            with evaluating(model):
                run, masks = part_calibration(model, part, examples, self.batch_size)
                layers += quantize_blocks(blocks, run, masks, options) if blocks else []
                single = {
                    name: linear
                    for name, linear in targets[part].items()
                    if not any(name.startswith(f"{block}.") for block in blocks)
                }
                layers += quantize_linears(single, run, masks, options) if single else []
        after = sum(model.weight_bytes().values())
        skipped = [name for part in targets.values() for name in part if name not in schemes]
        left = [f"{len(skipped)} layers skipped by overrides: {', '.join(skipped)}"] if skipped else []
        if small:
            names = ", ".join(small)
            left.append(f"{len(small)} layers of fewer than {FEWEST_OUTPUTS} outputs left alone: {names}")
        left += engine_notes(self.engine, self.bits)
        report = gptq_report(model, layers, before, after, left)
        return chosen.told(report) if chosen else report

    def predict(self, sketch: Sketch) -> None:
        """Packed layers in the place of the targets; time is two passes over the clips and the solver's."""
        targets, _ = gptq_targets(sketch.model, self.parts, self.overrides)
        assumed: Allocation | None = None
        if self.average_bits is not None:
            assumed = assume(sketch, self._left_open(targets), self._measuring(self.average_bits))
        schemes = self._schemes(targets, assumed)
        require_engine(self.engine, targets, schemes)
        warnings: Counter[str] = Counter()
        for part, linears in targets.items():
            sketch.run_part(part, 3 * sketch.calibration_clips)
            chosen = {name: linear for name, linear in linears.items() if name in schemes}
            rows = self._positions(sketch, part, chosen)
            for name, linear in chosen.items():
                # The statistics, of which layers with one input share theirs; factorisation; error feedback.
                sketch.flops += linear.in_features**2 * (rows + linear.in_features + 4 * linear.out_features)
                with sketch.empty():
                    packed = empty_linear(linear, schemes[name], self.prefill_activations)
                sketch.model.replace_module(name, packed)
                _, warning = choose_kernel(packed.shape, torch.device(sketch.device), packed.dtype)
                warnings[warning] += 1
        sketch.notes += [f"{count} layers, {warning}" for warning, count in warnings.items() if warning]

    def _positions(self, sketch: Sketch, part: str, chosen: Mapping[str, nn.Linear]) -> int:
        """Calibration positions of a part: counted where the data are known, else of clips of 10 s.

        Raises:
            PassError: the data are known, and too few for the widest layer.
        """
        blocks = [f"{part}.{name}." for name in find_blocks(sketch.model.get_submodule(part))]
        widths = {
            name: linear.in_features
            for name, linear in chosen.items()
            if any(name.startswith(block) for block in blocks)
        }
        if widths and sketch.data_known:
            found = calibration_positions(sketch.model, part, sketch.calibration, self.batch_size)
            require_positions(widths, found)
            return found
        clip, widest = Clip.of(sketch.model), max(widths.values(), default=0)
        rows = sketch.calibration_clips * (clip.prompt if part == "llm" else clip.frames)
        if part == "llm" and rows < widest:
            sketch.notes.append(
                f"a layer has {widest} inputs and needs as many calibration positions; "
                f"{sketch.calibration_clips} clips of 10 s give about {rows}, so the run may refuse"
            )
        return rows

    def rehearsed(self, model: Salmonn) -> Pass:
        """With the least of the bits in the place of ``auto``: a measurement for each layer takes minutes."""
        if self.bits != "auto":
            return self
        return self.model_copy(update={"bits": self._least, "average_bits": None})

    def _left_open(self, targets: Mapping[str, Mapping[str, nn.Linear]]) -> dict[str, Open]:
        """Full name -> what a layer may become whose bits no override settles.

        Raises:
            PassError: there is no such layer.
        """
        found: dict[str, Open] = {}
        for name, linear in [item for part in targets.values() for item in part.items()]:
            schemes = {scheme for bits in self.bit_choices if (scheme := self._scheme(name, bits))}
            if len(schemes) > 1:
                found[name] = linear, sorted(schemes, key=lambda scheme: scheme.bits)
        if not found:
            raise PassError("gptq: bits: auto, but overrides settle every layer; give bits in its place")
        return found

    def _measuring(self, average: float) -> Measuring:
        return Measuring(average, self.sensitivity_clips, self.batch_size, self.act_order, self.damping)

    @property
    def _least(self) -> int:
        """The fewest bits that a layer without an override may get."""
        return min(self.bit_choices) if self.bits == "auto" else self.bits

    def _schemes(
        self, targets: Mapping[str, Mapping[str, nn.Linear]], chosen: Allocation | None
    ) -> dict[str, Scheme]:
        """Full name -> scheme of the layers that are not skipped."""
        bits = chosen.bits if chosen else {}
        schemes = {
            name: scheme
            for part in targets.values()
            for name in part
            if (scheme := self._scheme(name, bits.get(name, self._least)))
        }
        if not schemes:
            raise PassError("gptq: every layer is skipped by an override; remove the pass or an override")
        return schemes

    def _scheme(self, name: str, bits: int) -> Scheme | None:
        """The scheme of a layer, of ``bits`` unless an override says otherwise; None to skip it."""
        return scheme_of(name, self.overrides, (bits, self.group_size, self.symmetric), self.progressive)
