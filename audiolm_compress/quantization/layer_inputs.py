"""What linear layers read: which of them share an input, and the statistics of it without padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from audiolm_compress.quantization.blocks import Replay, Stop, until_stop
from audiolm_compress.quantization.gptq import Hessian


def input_stages(linears: Mapping[str, nn.Linear], replay: Replay) -> list[dict[str, nn.Linear]]:
    """Layers grouped by the tensor that they read, in calling order; those never called are missing."""
    stages: dict[tuple[int, torch.Size], dict[str, nn.Linear]] = {}
    alive: list[Tensor] = []  # an address is unique only while its tensor lives

    def hook(name: str, linear: nn.Linear) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            alive.append(args[0])
            stages.setdefault((args[0].data_ptr(), args[0].shape), {})[name] = linear

        return note

    handles = [linear.register_forward_pre_hook(hook(name, linear)) for name, linear in linears.items()]
    try:
        until_stop(replay, 0)
    finally:
        for handle in handles:
            handle.remove()
    return list(stages.values())


@contextmanager
def inputs_into(hessian: Hessian, linear: nn.Linear, mask: Tensor | None) -> Iterator[None]:
    """Inside, a forward pass ends at ``linear``, and ``hessian`` counts what it was to read."""

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        hessian.add(counted(args[0], mask))
        raise Stop

    handle = linear.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def counted(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Rows of ``inputs`` [..., in] without those of padding."""
    rows = inputs.flatten(0, -2)
    if mask is not None and len(rows) == mask.numel():
        rows = rows[mask.flatten().bool()]
    return rows
