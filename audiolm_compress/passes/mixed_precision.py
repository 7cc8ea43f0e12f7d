"""Bits for each layer by what the model's answers lose when that layer alone is rounded.

The sensitivity of layer i at b bits is the mean divergence of the answers' distributions,

    S_i(b) = mean over text tokens of KL( p(. | before) || p_i,b(. | before) ),

where p_i,b is the model with layer i alone rounded to b bits (ZeroQ, Cai et al., arXiv:2001.00281, whose
assumption that the S_i add up is made here too). Against the rise of the calibration loss it is never
negative and has no linear term, so that a few clips suffice, and it needs no gradients. The widths that
minimise the sum under a mean number of bits follow by `quantization/knapsack.py`.

Layers are tried at the clipped grid that suits their weights best, before GPTQ spreads its errors; what that
wins later is much the same factor for all.

What it costs: one forward pass over the clips for each layer and width. Only the LLM's is repeated while no
encoder is among the layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, PassReport
from audiolm_compress.passes.part_calibration import evaluating
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.grids import Scheme, dequantize, fit_grid, round_to_grid
from audiolm_compress.quantization.knapsack import choose_widths
from audiolm_compress.salmonn.model import IGNORED, Inputs, Salmonn

Open = tuple[nn.Linear, Sequence[Scheme]]  # a layer and what it may become, one scheme a width


@dataclass(frozen=True)
class Allocation:
    """How many bits each layer gets, and why.

    Attributes:
        bits: full name -> bits.
        sensitivity: full name -> bits -> S in nats a text token.
        average: mean bits of a weight over these layers.
    """

    bits: Mapping[str, int]
    sensitivity: Mapping[str, Mapping[int, float]]
    average: float

    def told(self, report: PassReport) -> PassReport:
        """``report`` with every layer's sensitivities in its row, and the mean that was reached."""
        rows = [
            dict(row)
            | {f"S at {bits} bit": value for bits, value in self.sensitivity.get(row["name"], {}).items()}
            for row in report.modules
        ]
        counts = {
            width: sum(bits == width for bits in self.bits.values()) for width in set(self.bits.values())
        }
        listed = ", ".join(f"{counts[width]} of {width} bit" for width in sorted(counts))
        note = (
            f"bits by sensitivity: {listed}; {self.average:.3f} bits a weight in the mean, scales not counted"
        )
        return replace(
            report,
            modules=rows,
            figures=dict(report.figures) | {"average_bits": self.average},
            notes=[*report.notes, note],
        )


def choose(
    model: Salmonn,
    layers: Mapping[str, Open],
    average: float,
    clips: int,
    batch_size: int,
    context: Context,
) -> Allocation:
    """Measure S of every layer and width, and take the best widths; the model is left exactly as it was.

    Args:
        model: as it stands before it is quantised.
        layers: full name -> layer and what it may become.
        average: mean bits of a weight.
        clips: calibration clips to measure on, of each task in turn.
        batch_size: clips that are computed together.
        context: its clips have reference texts.

    Raises:
        PassError: rounding a layer gives NaN or infinite logits, so that nothing can be compared.
    """
    examples = [context.calibration[index] for index in in_turn(context.calibration, clips)]
    context.progress.start("gptq: sensitivities", len(layers))
    losses: dict[str, dict[int, float]] = {}
    with evaluating(model):
        batches = _answers(model, examples, batch_size, repeated=not _only_llm(layers))
        usual = [batch() for batch in batches]
        for name, (linear, schemes) in layers.items():
            original = linear.weight.detach().clone()
            losses[name] = {}
            for scheme in schemes:
                linear.weight.copy_(rounded(original, scheme))
                found = divergence(usual, batches)
                if not math.isfinite(found):
                    raise PassError(f"gptq: {name} in {scheme.bits} bit gives logits that are no numbers")
                losses[name][scheme.bits] = found
            linear.weight.copy_(original)
            context.progress.advance()
    return _allocation(losses, layers, average)


def assume(sketch: Sketch, layers: Mapping[str, Open], average: float, clips: int) -> Allocation:
    """Widths before anything is measured, as if 4^-bits, the step's square, were all; and its work."""
    runs = 1 + sum(len(schemes) for _, schemes in layers.values())
    for part in sketch.model.parts():
        again = part == "llm" or not _only_llm(layers)
        sketch.run_part(part, min(clips, sketch.calibration_clips) * (runs if again else 1))
    sketch.notes.append(f"data decides the bits of each layer; {average} in the mean are assumed")
    losses = {
        name: {scheme.bits: linear.weight.numel() * 4.0**-scheme.bits for scheme in schemes}
        for name, (linear, schemes) in layers.items()
    }
    return _allocation(losses, layers, average)


def _allocation(
    losses: Mapping[str, Mapping[int, float]], layers: Mapping[str, Open], average: float
) -> Allocation:
    sizes = [layers[name][0].weight.numel() for name in losses]
    widths = choose_widths(list(losses.values()), sizes, average)
    spent = sum(size * width for size, width in zip(sizes, widths, strict=True))
    return Allocation(dict(zip(losses, widths, strict=True)), losses, spent / sum(sizes))


def rounded(weight: Tensor, scheme: Scheme) -> Tensor:
    """``weight`` [out, in] at the values of the clipped grid that suits it best; float32."""
    alike = torch.ones(weight.shape[1], device=weight.device)
    grid = fit_grid(weight.float(), scheme, alike, weight.dtype)
    return dequantize(round_to_grid(weight, grid, scheme), grid, scheme)


def divergence(usual: Sequence[Tensor], batches: Sequence[Callable[[], Tensor]]) -> float:
    """Mean KL(usual || now), in nats, over the positions of all batches.

    Args:
        usual: log-probabilities [positions, vocabulary] of each batch.
        batches: functions that compute them as they are now.
    """
    total = 0.0
    for before, batch in zip(usual, batches, strict=True):
        total += float(F.kl_div(batch(), before, reduction="sum", log_target=True))
    return max(0.0, total / sum(map(len, usual)))  # equal distributions may differ from 0 in the last bits


def _only_llm(layers: Mapping[str, Open]) -> bool:
    return all(name.startswith("llm.") for name in layers)


def _answers(
    model: Salmonn, examples: Sequence[Example], batch_size: int, repeated: bool
) -> list[Callable[[], Tensor]]:
    """Functions that give the log-probabilities of each batch; ``repeated``: from the waveforms on."""
    chunks = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
    if repeated:
        return [partial(_of_clips, model, chunk) for chunk in chunks]
    return [partial(_of_inputs, model, model.prepare_training(chunk)) for chunk in chunks]


def _of_clips(model: Salmonn, examples: Sequence[Example]) -> Tensor:
    return _of_inputs(model, model.prepare_training(examples))


def _of_inputs(model: Salmonn, inputs: Inputs) -> Tensor:
    """Log-probabilities [text tokens, vocabulary] at the positions that predict a token of the text."""
    assert inputs.labels is not None
    counts = inputs.labels[:, 1:] != IGNORED
    return model.score(inputs)[:, :-1][counts].float().log_softmax(-1)
