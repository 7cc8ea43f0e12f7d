"""GPTQ over a stack of blocks, one block's Hessians in memory at a time.

A cheap first pass runs the model with blocks that hand their input on unchanged, only to learn how each block is
called (masks, rotary embeddings, ...). From then on each block is replayed alone, on the hidden states that the
quantised blocks before it produce. Within a block the layers that share an input form a stage; a stage's replay is
broken off at its input, so that calibrating each stage behind the quantised ones before it costs about two forward
passes a block in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.quantization.gptq import Hessian, Quantized, quantize_gptq, quantize_rounding
from audiolm_compress.quantization.grids import Scheme, dequantize
from audiolm_compress.quantization.modules import QuantizedLinear

Replay = Callable[[int], Any]  # runs batch number i


@dataclass(frozen=True)
class Options:
    """How GPTQ is run.

    Attributes:
        scheme_of: the scheme of a layer by its full name, or None to leave the layer as it is.
        act_order: round the inputs of largest mean square first.
        damping: share of the mean diagonal added to the Hessian.
        replace: puts a module in the place of the one with that full name.
        advance: called after each block.
    """

    scheme_of: Callable[[str], Scheme | None]
    replace: Callable[[str, nn.Module], None]
    act_order: bool = True
    damping: float = 0.01
    advance: Callable[[], None] = lambda: None


@dataclass
class Layer:
    """What became of one layer; a row of the report."""

    name: str
    bits: int
    group_size: int
    rows: int
    error: float
    rounding_error: float
    damping: float

    @property
    def method(self) -> str:
        """``rounding`` where a layer had no inputs to learn from."""
        return "gptq" if self.rows else "rounding"


class _Stop(Exception):
    """Breaks a forward pass off once it has given what was wanted."""


@torch.no_grad()
def quantize_blocks(
    blocks: Mapping[str, nn.Module], run: Replay, masks: Sequence[Tensor | None], options: Options
) -> list[Layer]:
    """Quantise the linear layers of blocks that the model calls one after the other.

    Args:
        blocks: full name -> block, in the order of calling; the first argument (or ``hidden_states``) and the (first)
            output of each are its hidden states [batch, time, hidden].
        run: runs the model, from its start, on the batch of that number; what follows the blocks is not computed.
        masks: per batch, 1 where a position counts and 0 for padding, shape [batch, time]; None counts all.
        options: see there.

    Raises:
        PassError: fewer calibration positions than a layer has inputs.
    """
    calls = _record_calls(list(blocks.values()), run, len(masks))
    hidden = [_hidden(*calls[0][batch]) for batch in range(len(masks))]
    _require_enough(blocks, hidden, masks, options)
    rows: list[Layer] = []
    for index, (name, block) in enumerate(blocks.items()):

        def replay(batch: int, block: nn.Module = block, calls: list[_Call] = calls[index]) -> Tensor:
            args, kwargs = _with_hidden(*calls[batch], hidden[batch])
            return _first(block(*args, **kwargs))

        linears = {f"{name}.{inner}": module for inner, module in target_linears(block).items()}
        layers, finished = _quantize_stages(linears, replay, masks, options)
        rows += layers
        if index + 1 < len(blocks):
            hidden = [replay(batch) for batch in range(len(masks))]
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


def target_linears(block: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of ``block`` that hold base weights: those of LoRA adapters are left out."""
    return {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) and not any(part.startswith("lora_") for part in name.split("."))
    }


def find_blocks(part: nn.Module) -> dict[str, nn.Module]:
    """The blocks of ``part``: the children of the module list that holds most weights.

    Returns:
        Name relative to ``part`` -> block; empty if no module list has linear layers, or if its children are not
        called as a whole (no ``forward``), so that they cannot be replayed.
    """
    lists = {name: module for name, module in part.named_modules() if isinstance(module, nn.ModuleList)}
    sizes = {name: sum(p.numel() for p in stack.parameters()) for name, stack in lists.items()
             if target_linears(stack)}
    if not sizes:
        return {}
    largest = max(sizes, key=lambda name: sizes[name])
    blocks = {f"{largest}.{index}": block for index, block in enumerate(lists[largest])}
    return {} if any(type(block).forward is nn.Module.forward for block in blocks.values()) else blocks


_Call = tuple[tuple[Any, ...], dict[str, Any]]


def _record_calls(blocks: Sequence[nn.Module], run: Replay, batches: int) -> list[list[_Call]]:
    """How each block is called for each batch: [block][batch] -> (args, kwargs).

    Each block runs once, to see whether it returns a tensor or a tuple; from then on it hands its input on.
    """
    calls: list[list[_Call]] = [[] for _ in blocks]
    rests: dict[int, tuple[Any, ...] | None] = {}

    def stand_in(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            calls[index].append((args, kwargs))
            if index + 1 == len(blocks):
                raise _Stop
            if index not in rests:
                output = original(*args, **kwargs)
                rests[index] = output[1:] if isinstance(output, tuple) else None
                if any(isinstance(item, Tensor) for item in rests[index] or ()):
                    raise PassError(f"gptq: {type(blocks[index]).__name__} returns more than its hidden states, "
                                    "which later blocks may need; this kind of model is not supported")
            rest, hidden = rests[index], _hidden(args, kwargs)
            return hidden if rest is None else (hidden, *rest)

        return forward

    for index, block in enumerate(blocks):
        block.forward = stand_in(index, block.forward)  # type: ignore[method-assign]  # undone below
    try:
        for batch in range(batches):
            _until_stop(run, batch)
    finally:
        for block in blocks:
            del block.forward
    if any(len(recorded) != batches for recorded in calls):
        raise PassError("gptq: a forward pass must call each block exactly once; found "
                        f"{[len(recorded) for recorded in calls]} calls in {batches} batches")
    return calls


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states among the arguments of a block."""
    return args[0] if args else kwargs["hidden_states"]


def _with_hidden(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> _Call:
    """The same call with other hidden states."""
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _first(output: Any) -> Tensor:
    """The hidden states in what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def _until_stop(run: Replay, batch: int) -> None:
    """Run a batch, be it to the end or to a ``_Stop``."""
    try:
        run(batch)
    except _Stop:
        pass


def _require_enough(
    blocks: Mapping[str, nn.Module], hidden: Sequence[Tensor], masks: Sequence[Tensor | None], options: Options
) -> None:
    """Fewer positions than inputs leave H singular: refuse before anything has changed."""
    found = sum(int(h[..., 0].numel() if mask is None else mask.sum()) for h, mask in zip(hidden, masks, strict=True))
    widths = {
        f"{name}.{inner}": linear.in_features
        for name, block in blocks.items()
        for inner, linear in target_linears(block).items()
        if options.scheme_of(f"{name}.{inner}") is not None
    }
    if not widths:
        return
    widest = max(widths, key=lambda name: widths[name])
    if found < widths[widest]:
        raise PassError(f"gptq: {widest} has {widths[widest]} inputs and needs at least as many calibration positions; "
                        f"found {found}; give more or longer calibration data")


def _quantize_stages(
    linears: Mapping[str, nn.Linear], replay: Replay, masks: Sequence[Tensor | None], options: Options
) -> tuple[list[Layer], dict[str, QuantizedLinear]]:
    """Quantise ``linears`` stage by stage. Their dense weights become the quantised ones; the modules come back."""
    chosen = {name: linear for name, linear in linears.items() if options.scheme_of(name) is not None}
    layers: list[Layer] = []
    finished: dict[str, QuantizedLinear] = {}
    for stage in _stages(chosen, replay):
        first = next(iter(stage.values()))
        hessian = Hessian(first.in_features, first.weight.device)
        for batch, mask in enumerate(masks):
            with _inputs_of(first, lambda inputs, mask=mask: hessian.add(_counted(inputs, mask))):
                _until_stop(replay, batch)
        for name, layer, finished[name] in _solve(stage, hessian, options):
            layers.append(layer)
    for name, linear in chosen.items():
        scheme = options.scheme_of(name)
        if name not in finished and scheme is not None:  # its forward was never called: no inputs to learn from
            result = quantize_rounding(linear.weight, None, scheme, dtype=linear.weight.dtype)
            layer, finished[name] = _finish(name, linear, result, scheme, rows=0)
            layers.append(layer)
    return layers, finished


def _stages(linears: Mapping[str, nn.Linear], replay: Replay) -> list[dict[str, nn.Linear]]:
    """Layers grouped by the tensor that they read, in the order of calling; layers that never run are missing."""
    stages: dict[tuple[int, torch.Size], dict[str, nn.Linear]] = {}
    alive: list[Tensor] = []  # an address is unique only while its tensor lives

    def hook(name: str, linear: nn.Linear) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            alive.append(args[0])
            stages.setdefault((args[0].data_ptr(), args[0].shape), {})[name] = linear

        return note

    handles = [linear.register_forward_pre_hook(hook(name, linear)) for name, linear in linears.items()]
    try:
        _until_stop(replay, 0)
    finally:
        for handle in handles:
            handle.remove()
    return list(stages.values())


@contextmanager
def _inputs_of(linear: nn.Linear, use: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside, a forward pass ends at ``linear``, its input handed to ``use``."""

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        use(args[0])
        raise _Stop

    handle = linear.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _counted(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Rows of ``inputs`` [..., in] without those of padding."""
    rows = inputs.flatten(0, -2)
    if mask is not None and len(rows) == mask.numel():
        rows = rows[mask.flatten().bool()]
    return rows


def _solve(
    stage: Mapping[str, nn.Linear], hessian: Hessian, options: Options
) -> Iterator[tuple[str, Layer, QuantizedLinear]]:
    """Quantise the layers of a stage, those of one scheme stacked to share a factorisation."""
    by_scheme: dict[Scheme, dict[str, nn.Linear]] = {}
    for name, linear in stage.items():
        scheme = options.scheme_of(name)
        if scheme is not None:
            by_scheme.setdefault(scheme, {})[name] = linear
    for scheme, linears in by_scheme.items():
        stacked = torch.cat([linear.weight for linear in linears.values()])
        result = quantize_gptq(stacked, hessian.matrix, scheme, act_order=options.act_order,
                               damping=options.damping, dtype=stacked.dtype)
        start = 0
        for name, linear in linears.items():
            part = result.outputs(start, start + linear.out_features)
            start += linear.out_features
            yield name, *_finish(name, linear, part, scheme, hessian.rows)


def _finish(
    name: str, linear: nn.Linear, result: Quantized, scheme: Scheme, rows: int
) -> tuple[Layer, QuantizedLinear]:
    """Overwrite the dense weight, which the calibration still runs on, and build the module that will replace it."""
    linear.weight.copy_(dequantize(result.codes, result.grid, scheme))
    layer = Layer(name, scheme.bits, scheme.group_size, rows, result.error, result.rounding_error, result.damping)
    return layer, QuantizedLinear.from_codes(result.codes, result.grid, scheme, linear.bias, linear.weight.dtype)
