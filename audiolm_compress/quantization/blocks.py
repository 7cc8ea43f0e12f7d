"""The blocks of a model: which they are, how the model calls them, and calling one of them again alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from audiolm_compress.errors import PassError

Replay = Callable[[int], Any]  # runs batch number i
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Stop(Exception):  # noqa: N818  # no error: the way out of a forward pass
    """Breaks a forward pass off once it has given what was wanted."""


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
        Name relative to ``part`` -> block; empty if no module list has linear layers, or if its children are
        not called as a whole (no ``forward``), so that they cannot be replayed.
    """
    lists = {name: module for name, module in part.named_modules() if isinstance(module, nn.ModuleList)}
    sizes = {
        name: sum(p.numel() for p in stack.parameters())
        for name, stack in lists.items()
        if target_linears(stack)
    }
    if not sizes:
        return {}
    largest = max(sizes, key=lambda name: sizes[name])
    blocks = {f"{largest}.{index}": block for index, block in enumerate(lists[largest])}
    return {} if any(type(block).forward is nn.Module.forward for block in blocks.values()) else blocks


def record_calls(blocks: Sequence[nn.Module], run: Replay, batches: int) -> list[list[Call]]:
    """How each block is called for each batch: [block][batch] -> (args, kwargs).

    Each block runs once, to see whether it returns a tensor or a tuple; from then on it hands its input on.
    """
    calls: list[list[Call]] = [[] for _ in blocks]
    rests: dict[int, tuple[Any, ...] | None] = {}

    def stand_in(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            calls[index].append((args, kwargs))
            if index + 1 == len(blocks):
                raise Stop
            if index not in rests:
                output = original(*args, **kwargs)
                rests[index] = output[1:] if isinstance(output, tuple) else None
                if any(isinstance(item, Tensor) for item in rests[index] or ()):
                    raise PassError(
                        f"gptq: {type(blocks[index]).__name__} returns more than its hidden states, "
                        "which later blocks may need; this kind of model is not supported"
                    )
            rest, hidden = rests[index], hidden_states(args, kwargs)
            return hidden if rest is None else (hidden, *rest)

        return forward

    own = [vars(block).get("forward") for block in blocks]  # some libraries wrap single modules
    for index, block in enumerate(blocks):
        vars(block)["forward"] = stand_in(index, block.forward)
    try:
        for batch in range(batches):
            until_stop(run, batch)
    finally:
        for block, forward in zip(blocks, own, strict=True):
            vars(block).pop("forward")
            if forward is not None:
                vars(block)["forward"] = forward
    if any(len(recorded) != batches for recorded in calls):
        raise PassError(
            "gptq: a forward pass must call each block exactly once; found "
            f"{[len(recorded) for recorded in calls]} calls in {batches} batches"
        )
    return calls


def hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states among the arguments of a block."""
    return args[0] if args else kwargs["hidden_states"]


def _with_hidden(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> Call:
    """The same call with other hidden states."""
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _first(output: Any) -> Tensor:
    """The hidden states in what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def replay_of(block: nn.Module, calls: Sequence[Call], hidden: Sequence[Tensor]) -> Callable[[int], Tensor]:
    """Run ``block`` on the hidden states of a batch, called as it was."""

    def run(batch: int) -> Tensor:
        args, kwargs = _with_hidden(*calls[batch], hidden[batch])
        return _first(block(*args, **kwargs))

    return run


def until_stop(run: Replay, batch: int) -> None:
    """Run a batch, be it to the end or to a ``Stop``."""
    with suppress(Stop):
        run(batch)
