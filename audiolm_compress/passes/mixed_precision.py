"""Bits for each layer by what the model's answers lose when that layer alone is quantised.

The sensitivity of layer i at b bits is the mean divergence of the answers' distributions,

    S_i(b) = mean over text tokens of KL( p(. | before) || p_i,b(. | before) ),

where p_i,b is the model with layer i alone in b bits (ZeroQ, Cai et al., arXiv:2001.00281, whose assumption
that the S_i add up is made here too). Against the rise of the calibration loss it is never negative and has
no linear term, so that a few clips suffice, and it needs no gradients. The widths that minimise the sum under
a mean number of bits follow by `quantization/knapsack.py`.

Layers are tried as GPTQ quantises them, on the inputs of the model as it stands. Plain rounding would be
cheaper, but orders them differently: on `tiny` its choice did worse on held-out clips than one width for all.

What it costs: a forward pass over the calibration clips for each block, GPTQ's solver once a layer and width,
and a forward pass over the sensitivity clips for each of those; only the LLM's while no encoder is among the
layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, PassReport
from audiolm_compress.passes.part_calibration import evaluating, part_calibration
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.blocks import Replay, find_blocks
from audiolm_compress.quantization.gptq import Hessian
from audiolm_compress.quantization.grids import Scheme, dequantize
from audiolm_compress.quantization.knapsack import choose_widths
from audiolm_compress.quantization.layer_inputs import counted
from audiolm_compress.quantization.layerwise import solve
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.wrapping import IGNORED, Inputs

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


@dataclass(frozen=True)
class Measuring:
    """How sensitivities are measured.

    Attributes:
        average: mean bits of a weight that are to be spent.
        clips: calibration clips to measure on, of each task in turn.
        batch_size: clips that are computed together.
        act_order: of GPTQ.
        damping: of GPTQ.
    """

    average: float
    clips: int
    batch_size: int
    act_order: bool
    damping: float


def choose(model: Salmonn, layers: Mapping[str, Open], how: Measuring, context: Context) -> Allocation:
    """Measure S of every layer and width, and take the best widths; the model is left exactly as it was.

    Args:
        model: as it stands before it is quantised.
        layers: full name -> layer and what it may become.
        how: see ``Measuring``.
        context: its clips have reference texts.

    Raises:
        PassError: a quantised layer gives NaN or infinite logits, so that nothing can be compared.
    """
    examples = [context.calibration[index] for index in in_turn(context.calibration, how.clips)]
    context.progress.start("gptq: sensitivities", len(layers))
    losses: dict[str, dict[int, float]] = {}
    with evaluating(model):
        batches = _answers(model, examples, how.batch_size, repeated=not _only_llm(layers))
        usual = [batch() for batch in batches]
        for part in dict.fromkeys(map(_part, layers)):
            run, masks = part_calibration(model, part, context.calibration, how.batch_size)
            for group in _groups(model, part, layers):
                hessians = _statistics({name: layers[name][0] for name in group}, run, masks)
                for name in group:
                    losses[name] = _sensitivity(name, layers[name], hessians[name], usual, batches, how)
                    context.progress.advance()
    return _allocation(losses, layers, how.average)


def _part(name: str) -> str:
    return name.partition(".")[0]


def _groups(model: Salmonn, part: str, layers: Mapping[str, Open]) -> list[list[str]]:
    """The layers of a part block by block, so that one block's statistics are in memory; then the others."""
    left = [name for name in layers if _part(name) == part]
    groups = []
    for block in find_blocks(model.get_submodule(part)):
        groups.append([name for name in left if name.startswith(f"{part}.{block}.")])
        left = [name for name in left if name not in groups[-1]]
    return [group for group in [*groups, left] if group]


def _statistics(
    linears: Mapping[str, nn.Linear], run: Replay, masks: Sequence[Tensor | None]
) -> dict[str, Hessian]:
    """Mean of x x^T of each layer's inputs in whole runs of the part."""
    hessians = {name: Hessian(linear.in_features, linear.weight.device) for name, linear in linears.items()}
    mask: Tensor | None = None

    def hook(hessian: Hessian) -> Callable[..., None]:
        return lambda _, args: hessian.add(counted(args[0], mask))

    handles = [linear.register_forward_pre_hook(hook(hessians[name])) for name, linear in linears.items()]
    try:
        for batch, counts in enumerate(masks):
            mask = counts
            run(batch)
    finally:
        for handle in handles:
            handle.remove()
    return hessians


def _sensitivity(
    name: str,
    layer: Open,
    hessian: Hessian,
    usual: Sequence[Tensor],
    batches: Sequence[Callable[[], Tensor]],
    how: Measuring,
) -> dict[int, float]:
    """Bits -> S of one layer, whose weight is put back."""
    linear, schemes = layer
    original = linear.weight.detach().clone()
    found = {}
    try:
        for scheme in schemes:
            solved = solve(original, hessian, scheme, how.act_order, how.damping)
            linear.weight.copy_(dequantize(solved.codes, solved.grid, scheme))
            found[scheme.bits] = divergence(usual, batches)
            if not math.isfinite(found[scheme.bits]):
                raise PassError(f"gptq: {name} in {scheme.bits} bit gives logits that are no numbers")
    finally:
        linear.weight.copy_(original)
    return found


def assume(sketch: Sketch, layers: Mapping[str, Open], how: Measuring) -> Allocation:
    """Widths before anything is measured, as if 4^-bits, the step's square, were all; and its work."""
    runs = 1 + sum(len(schemes) for _, schemes in layers.values())
    for part in sketch.model.parts():
        again = part == "llm" or not _only_llm(layers)
        sketch.run_part(part, min(how.clips, sketch.calibration_clips) * (runs if again else 1))
        sketch.run_part(part, sketch.calibration_clips * len(_groups(sketch.model, part, layers)))
    for linear, schemes in layers.values():
        inputs, outputs = linear.in_features, linear.out_features
        sketch.flops += len(schemes) * inputs**2 * (inputs + 4 * outputs)
    sketch.notes.append(f"data decides the bits of each layer; {how.average} in the mean are assumed")
    losses = {
        name: {scheme.bits: linear.weight.numel() * 4.0**-scheme.bits for scheme in schemes}
        for name, (linear, schemes) in layers.items()
    }
    return _allocation(losses, layers, how.average)


def _allocation(
    losses: Mapping[str, Mapping[int, float]], layers: Mapping[str, Open], average: float
) -> Allocation:
    sizes = [layers[name][0].weight.numel() for name in losses]
    widths = choose_widths(list(losses.values()), sizes, average)
    spent = sum(size * width for size, width in zip(sizes, widths, strict=True))
    return Allocation(dict(zip(losses, widths, strict=True)), losses, spent / sum(sizes))


def divergence(usual: Sequence[Tensor], batches: Sequence[Callable[[], Tensor]]) -> float:
    """Mean KL(usual || now), in nats, over the positions of all batches; NaN if a logit is.

    Args:
        usual: log-probabilities [positions, vocabulary] of each batch.
        batches: functions that compute them as they are now.
    """
    total = 0.0
    for before, batch in zip(usual, batches, strict=True):
        total += float(F.kl_div(batch(), before, reduction="sum", log_target=True))
    mean = total / sum(map(len, usual))
    return 0.0 if mean < 0 else mean  # -0.0000001 is rounding, but what is no number must stay so


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
