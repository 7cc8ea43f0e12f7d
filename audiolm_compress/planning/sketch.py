"""A model to plan with: its outline, and what passes have said about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from audiolm_compress.data.example import Example
from audiolm_compress.planning.layers import Layer, layers_of
from audiolm_compress.planning.work import Clip, part_costs
from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.salmonn.model import Salmonn


@dataclass
class Sketch:
    """What ``Pass.predict`` changes, as ``Pass.apply`` changes the model.

    Attributes:
        model: without weights (``outline_model``). Structural edits work on it as on a real one.
        calibration: the clips that the passes will get; their waveforms may be empty.
        tokenizer_known: False if ``model.tokenizer`` only estimates lengths.
        device: where the passes will run, which decides on kernels.
        flops: what the pass at hand will compute in float32 beside its runs of the model.
        runs: operations of its runs of the model, by type; both are for the estimate of time.
        notes: what the pass at hand cannot foresee, in words for the reader.
        training: the clips that passes which learn will get besides; empty if none are given for that.
    """

    model: Salmonn
    calibration: Sequence[Example] = ()
    tokenizer_known: bool = True
    device: str = "cpu"
    flops: float = 0.0
    runs: dict[torch.dtype, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    training: Sequence[Example] = ()

    def __post_init__(self) -> None:
        """Note what the untouched baseline computes for a clip."""
        self._baseline: dict[torch.dtype, float] = {}
        costs = part_costs(self.layers(), Clip.of(self.model), self.model)
        for part in self.model.parts():
            for dtype, flops in costs[part].flops.items():
                self._baseline[dtype] = self._baseline.get(dtype, 0.0) + flops

    @property
    def calibration_clips(self) -> int:
        """How many clips the passes will get; 128, a recipe's default, if they are not known."""
        return len(self.calibration) or 128

    @property
    def training_clips(self) -> int:
        """How many clips a pass that learns will get: those of calibration where none are given for it."""
        return len(self.training) or self.calibration_clips

    @property
    def data_known(self) -> bool:
        """Whether the clips are here with their audio, and tokens can be counted: not so in a plan."""
        clips = self.calibration
        return self.tokenizer_known and bool(clips) and all(len(clip.waveform) for clip in clips)

    @property
    def work(self) -> dict[torch.dtype, float]:
        """All that the pass at hand will compute, by type."""
        return self.runs | {torch.float32: self.runs.get(torch.float32, 0.0) + self.flops}

    def begin(self) -> None:
        """The next pass is at hand."""
        self.flops, self.runs, self.notes = 0.0, {}, []

    def layers(self) -> list[Layer]:
        """All layers with weights, as they are now."""
        return layers_of(self.model)

    def run_part(self, part: str, clips: float) -> None:
        """Count the work of running ``part`` on ``clips`` calibration clips, as if of 10 s each."""
        costs = part_costs(self.layers(), Clip.of(self.model), self.model)
        for dtype, flops in costs[part].flops.items():
            self.runs[dtype] = self.runs.get(dtype, 0.0) + clips * flops

    def run_clips(self, clips: float) -> None:
        """Count the work of running the whole model on ``clips`` calibration clips."""
        for part in self.model.parts():
            self.run_part(part, clips)

    def run_baseline(self, clips: float) -> None:
        """Count the work of running the untouched baseline, as a teacher, on ``clips`` clips of 10 s."""
        for dtype, flops in self._baseline.items():
            self.runs[dtype] = self.runs.get(dtype, 0.0) + clips * flops

    @contextmanager
    def empty(self) -> Iterator[None]:
        """Modules made inside have sizes but no memory."""
        with torch.device("meta"):
            yield


def empty_linear(linear: nn.Linear, scheme: Scheme, activations: int = 16) -> QuantizedLinear:
    """The packed layer, without weights, that ``QuantizedLinear.from_codes`` would make of ``linear``."""
    return QuantizedLinear(
        linear.in_features,
        linear.out_features,
        scheme,
        bias=linear.bias is not None,
        dtype=linear.weight.dtype,
        activations=activations,
    )
