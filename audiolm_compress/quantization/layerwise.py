"""GPTQ over a stack of blocks, one block's Hessians in memory at a time.

A cheap first pass runs the model with blocks that hand their input on unchanged, only to learn how each block
is called (masks, rotary embeddings, ...). From then on each block is replayed alone, on the hidden states
that the quantised blocks before it produce. Within a block the layers that share an input form a stage; a
stage's replay is broken off at its input, so that calibrating each stage behind the quantised ones before it
costs about two forward passes a block in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.quantization.blocks import (
    Replay,
    hidden_states,
    record_calls,
    replay_of,
    target_linears,
    until_stop,
)
from audiolm_compress.quantization.gptq import Hessian, Quantized, quantize_gptq, quantize_rounding
from audiolm_compress.quantization.grids import Scheme, dequantize
from audiolm_compress.quantization.layer_inputs import input_stages, inputs_into
from audiolm_compress.quantization.linear import QuantizedLinear

# SmolLM2-135M, 576 to 1536 inputs: 8-bit inputs raise perplexity by 0.3 % with 16 of them apart, else 2.5 %.
_OUTLIERS = 16

# Weight [out, in], statistics of its inputs, scheme, act_order, damping.
Solver = Callable[[Tensor, Hessian, Scheme, bool, float], Quantized]


@dataclass(frozen=True)
class Options:
    """How GPTQ is run.

    Attributes:
        scheme_of: the scheme of a layer by its full name, or None to leave the layer as it is.
        replace: puts a module in the place of the one with that full name.
        act_order: round the inputs of largest mean square first.
        damping: share of the mean diagonal added to the Hessian.
        activations: bits of the inputs of the finished layers where many rows are multiplied.
        advance: called after each block.
        total: sums a tensor over the processes that each have some of the batches; None if one has all.
        solver: quantises a matrix; None is ``solve``.
    """

    scheme_of: Callable[[str], Scheme | None]
    replace: Callable[[str, nn.Module], None]
    act_order: bool = True
    damping: float = 0.01
    activations: int = 16
    advance: Callable[[], None] = lambda: None
    total: Callable[[Tensor], Tensor] | None = None
    solver: Solver | None = None


@dataclass
class Layer:
    """What became of one layer; a row of the report."""

    name: str
    bits: int
    group_size: int
    inputs: int
    rows: int
    error: float
    rounding_error: float
    damping: float

    @property
    def method(self) -> str:
        """``rounding`` where a layer had no inputs, or only zeros, to learn from: that takes no damping."""
        return "gptq" if self.damping else "rounding"


@torch.no_grad()
def quantize_blocks(
    blocks: Mapping[str, nn.Module], run: Replay, masks: Sequence[Tensor | None], options: Options
) -> list[Layer]:
    """Quantise the linear layers of blocks that the model calls one after the other.

    Args:
        blocks: full name -> block, in the order of calling; the first argument (or ``hidden_states``) and the
            (first) output of each are its hidden states [batch, time, hidden].
        run: runs the model, from its start, on the batch of that number; what follows the blocks is not
            computed.
        masks: per batch, 1 where a position counts and 0 for padding, shape [batch, time]; None counts all.
        options: see ``Options``.

    Raises:
        PassError: fewer calibration positions than a layer has inputs.
    """
    calls = record_calls(list(blocks.values()), run, len(masks))
    hidden = [hidden_states(*calls[0][batch]) for batch in range(len(masks))]
    _require_enough(blocks, hidden, masks, options)
    rows: list[Layer] = []
    for index, (name, block) in enumerate(blocks.items()):
        replay = replay_of(block, calls[index], hidden)
        linears = {f"{name}.{inner}": module for inner, module in target_linears(block).items()}
        layers, finished = _quantize_stages(linears, replay, masks, options)
        rows += layers
        if index + 1 < len(blocks):
            for batch in range(len(masks)):
                hidden[batch] = replay(batch)
        calls[index].clear()
        for full_name, module in finished.items():
            options.replace(full_name, module)
        options.advance()
    return rows


@torch.no_grad()
def quantize_linears(
    linears: Mapping[str, nn.Linear], run: Replay, masks: Sequence[Tensor | None], options: Options
) -> list[Layer]:
    """Quantise single layers that stand in no stack of blocks, each behind the quantised ones before it.

    Args:
        linears: full name -> layer.
        run: runs the model on the batch of that number; it is broken off where possible.
        masks: see ``quantize_blocks``; applied to inputs whose leading dimensions equal the mask's.
        options: see ``Options``.
    """
    layers, finished = _quantize_stages(linears, run, masks, options)
    for full_name, module in finished.items():
        options.replace(full_name, module)
    options.advance()
    return layers


def _require_enough(
    blocks: Mapping[str, nn.Module],
    hidden: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    options: Options,
) -> None:
    """Fewer positions than inputs leave H singular: refuse before anything has changed."""
    found = sum(
        int(h[..., 0].numel() if mask is None else mask.sum()) for h, mask in zip(hidden, masks, strict=True)
    )
    if options.total is not None:
        found = int(options.total(torch.tensor(found, device=hidden[0].device)))
    widths = {
        f"{name}.{inner}": linear.in_features
        for name, block in blocks.items()
        for inner, linear in target_linears(block).items()
        if options.scheme_of(f"{name}.{inner}") is not None
    }
    require_positions(widths, found)


def require_positions(widths: Mapping[str, int], found: int) -> None:
    """Refuse if a layer of ``widths`` (full name -> inputs) has more inputs than there are positions.

    Raises:
        PassError: names the widest layer, its inputs and what was ``found``.
    """
    widest = max(widths, key=lambda name: widths[name], default=None)
    if widest is not None and found < widths[widest]:
        raise PassError(
            f"gptq: {widest} has {widths[widest]} inputs and needs at least as many calibration positions; "
            f"found {found}; give more or longer calibration data"
        )


def _quantize_stages(
    linears: Mapping[str, nn.Linear], replay: Replay, masks: Sequence[Tensor | None], options: Options
) -> tuple[list[Layer], dict[str, QuantizedLinear]]:
    """Quantise ``linears`` stage by stage; dense weights are overwritten, the new modules are returned."""
    chosen = {name: linear for name, linear in linears.items() if options.scheme_of(name) is not None}
    layers: list[Layer] = []
    finished: dict[str, QuantizedLinear] = {}
    for stage in input_stages(chosen, replay):
        first = next(iter(stage.values()))
        hessian = Hessian(first.in_features, first.weight.device)
        for batch, mask in enumerate(masks):
            with inputs_into(hessian, first, mask):
                until_stop(replay, batch)
        if options.total is not None:
            hessian.join(options.total)
        for layer, module in _solve(stage, hessian, options):
            layers.append(layer)
            finished[layer.name] = module
    for name, linear in chosen.items():
        scheme = options.scheme_of(name)
        if name not in finished and scheme is not None:  # the first batch never called it
            result = quantize_rounding(linear.weight, None, scheme, dtype=linear.weight.dtype)
            layer, module = _finish(name, linear, result, scheme, 0, options.activations)
            layers.append(layer)
            finished[name] = module
    return layers, finished


def _solve(
    stage: Mapping[str, nn.Linear], hessian: Hessian, options: Options
) -> Iterator[tuple[Layer, QuantizedLinear]]:
    """Quantise the layers of a stage, those of one scheme stacked to share a factorisation."""
    outliers = None
    if options.activations == 8:
        large = hessian.matrix.diagonal().topk(min(_OUTLIERS, len(hessian.matrix))).indices
        outliers = large.sort().values
    by_scheme: dict[Scheme, dict[str, nn.Linear]] = {}
    for name, linear in stage.items():
        scheme = options.scheme_of(name)
        if scheme is not None:
            by_scheme.setdefault(scheme, {})[name] = linear
    for scheme, linears in by_scheme.items():
        stacked = torch.cat([linear.weight for linear in linears.values()])
        result = (options.solver or solve)(stacked, hessian, scheme, options.act_order, options.damping)
        start = 0
        for name, linear in linears.items():
            part = result.outputs(start, start + linear.out_features)
            start += linear.out_features
            yield _finish(name, linear, part, scheme, hessian.rows, options.activations, outliers)


def solve(weight: Tensor, hessian: Hessian, scheme: Scheme, act_order: bool, damping: float) -> Quantized:
    """``weight`` [out, in] as this module quantises it, its scales in its own dtype."""
    return quantize_gptq(
        weight,
        hessian.matrix,
        scheme,
        act_order=act_order,
        damping=damping,
        sweeps=0 if scheme.bits == 8 else 1,  # nothing is left to win at 8 bit
        dtype=weight.dtype,
    )


def _finish(
    name: str,
    linear: nn.Linear,
    result: Quantized,
    scheme: Scheme,
    rows: int,
    activations: int,
    outliers: Tensor | None = None,
) -> tuple[Layer, QuantizedLinear]:
    """Overwrite the dense weight, which calibration still runs on, and build what will replace it."""
    linear.weight.copy_(dequantize(result.codes, result.grid, scheme))
    layer = Layer(
        name=name,
        bits=scheme.bits,
        group_size=scheme.group_size,
        inputs=linear.in_features,
        rows=rows,
        error=result.error,
        rounding_error=result.rounding_error,
        damping=result.damping,
    )
    return layer, QuantizedLinear.from_codes(
        result.codes, result.grid, scheme, linear.bias, linear.weight.dtype, activations, outliers
    )
