"""How long a run will take, from work and layers: an estimate whose constants come from a run that was timed.

recipes/gemma2_4bit.yaml on ``tiny``, then without `distill`, was run on two quiet cores of an AMD EPYC with
AVX-512 (nothing else ran, two threads): 163 s, of which measuring the baseline took 94, measuring the
candidate 20, the passes 22. `distill` has since taken 88 s more on such cores, where 90 are estimated. Beside
what the same machine's probe had said, its rates of one thread doubled:

* Products in float32 took 1.4 times the probe's time, of bytes about 6 times; in 16 bit, which a run before
  had its encoders in, 3.5 times. The faster the products, the more of the time is rounding, softmax and
  norms, which are not counted.
* Each layer cost 25 us beside its work in this package's runtime, about 50 us in transformers' ``generate``.
* At real size (one layer of Gemma-2-2B and its head) weights were read at 1 / 2.5 of the probe's rate.

On a GPU nobody has timed a run yet. Clips count as if of 10 s, so short ones take less once they are
un-padded; answers count as if of 20 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from audiolm_compress.planning.devices import Device
from audiolm_compress.planning.layers import Layer

_BELOW_PEAK: Mapping[torch.dtype, float] = {torch.float32: 1.4, torch.bfloat16: 3.5, torch.int8: 6.0}
_BELOW_BANDWIDTH = 2.5
_LAYER_SECONDS = 25e-6
_LAYER_SECONDS_TRANSFORMERS = 50e-6
_FURTHER_TOKENS = 19  # of an answer of 20: a caption or a sentence
_PROCESS_SECONDS = 12.0  # to start a measuring process, read its clips and score its answers
_DISK_RATE = 300e6  # bytes per second


def in_practice(probed: Device) -> Device:
    """The device as layers use it, not as the probe's loops do."""
    rates = {dtype: rate / _BELOW_PEAK[dtype] for dtype, rate in probed.rates.items()}
    return Device(probed.name, probed.bandwidth / _BELOW_BANDWIDTH, rates, probed.measured)


@dataclass(frozen=True)
class Answers:
    """How many answers a model gives while it is measured.

    Attributes:
        whole: until the end, timed or scored.
        short: of two tokens, in the upstream protocol.
        transformers: until the end, in transformers' ``generate``.
    """

    whole: int
    short: int
    transformers: int

    def seconds(self, first: float, further: float, layers: Sequence[Layer]) -> float:
        """Of all answers.

        Args:
            first: seconds until the first token by its work alone, on the device in practice.
            further: the same of a further token.
            layers: of the model, each of which is called.
        """
        first += _LAYER_SECONDS * len(layers)
        called = sum(layer.part == "llm" for layer in layers)
        ours, theirs = further + _LAYER_SECONDS * called, further + _LAYER_SECONDS_TRANSFORMERS * called
        return (
            self.whole * (first + _FURTHER_TOKENS * ours)
            + self.short * (first + ours)
            + self.transformers * (first + _FURTHER_TOKENS * theirs)
        )


def around_seconds(file_bytes: int) -> float:
    """Starting a process that loads a model, and what is read and written of its file."""
    return _PROCESS_SECONDS + 3 * file_bytes / _DISK_RATE


def work_seconds(device: Device, work: Mapping[torch.dtype, float]) -> float:
    """Operations by type, on the device in practice."""
    return sum(count / device.rate(dtype) for dtype, count in work.items())
