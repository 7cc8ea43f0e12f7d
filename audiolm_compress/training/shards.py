"""Work shared by the processes of ``accelerate launch``: each takes a share, all get the whole result.

All processes run the same program in step; what only one may do, as writing a folder, is for :func:`on_main`.
In a program that was started plainly there is one process, and these functions hand back what they are given.

Example:
    >>> items = ["a", "b", "c"]
    >>> gather([item.upper() for item in shard(items)])
    ['A', 'B', 'C']
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor

from audiolm_compress.devices import choose_device
from audiolm_compress.errors import AudioLMError
from audiolm_compress.training import signs

Item = TypeVar("Item")
_PATIENCE = timedelta(days=1)  # of one that is done early; others may have much more to answer or to write
_meetings = count()


def processes() -> PartialState:
    """The processes of this program; without a CUDA card they talk through gloo."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def own_device(name: str | None) -> str:
    """Where this process's models run: of several processes with CUDA cards, each has one of its own.

    Raises:
        AudioLMError: there is no such device, or one card is named for several processes.
    """
    state = processes()
    device = torch.device(choose_device(name))
    if state.num_processes == 1 or device.type != "cuda":
        return str(device)
    if device.index is not None:
        raise AudioLMError(
            f"device {name!r} is one card, but each of {state.num_processes} processes takes its own; "
            "say cuda or leave it out"
        )
    return str(state.device)


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """This process's share: every n-th item of n processes. The shares of some may be one item shorter."""
    state = processes()
    return items[state.process_index :: state.num_processes]


def gather(own: Sequence[Item]) -> list[Item]:
    """The results of all processes for the items of :func:`shard`, in the order of the items.

    Every process must call it, with one result an item of its share.
    """
    number = processes().num_processes
    if number == 1:
        return list(own)
    shares = gather_object([list(own)])
    return [shares[index % number][index // number] for index in range(sum(map(len, shares)))]


def total(own: Tensor) -> Tensor:
    """The sum of a tensor over all processes, which must all call it with one shape and dtype."""
    state = processes()
    return own if state.num_processes == 1 else reduce(own.to(state.device), "sum").to(own.device)


def from_main(value: Item) -> Item:
    """The main process's value, in all of them; for clocks and other values that could differ."""
    if processes().num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


def together(action: Callable[[], Item]) -> list[Item]:
    """What each process's call of ``action`` gives, in all of them, in the order of the processes.

    ``action`` must not hold collective operations; the main process's may take as long as it likes.

    Raises:
        AudioLMError: in all processes, what it raised in the first of those in which it failed.
    """
    state = processes()
    if state.num_processes == 1:
        return [action()]
    meeting = f"meeting {next(_meetings)}"
    own: tuple[list[Item], AudioLMError | None]
    try:
        own = ([action()], None)
    except AudioLMError as failure:
        own = ([], failure)
    if state.is_main_process:
        signs.leave(meeting)
    else:
        signs.awaited(meeting)
    found: list[tuple[list[Item], AudioLMError | None]] = gather_object([own])
    for _, error in found:
        if error is not None:
            raise error
    return [values[0] for values, _ in found]


def on_main(action: Callable[[], Item]) -> Item:
    """What ``action`` gives in the main process, the only one to call it, in all of them.

    Raises:
        AudioLMError: in all processes, what it raised.
    """
    if processes().is_main_process:
        return together(action)[0]
    return cast(Item, together(lambda: None)[0])


def disband() -> None:
    """The end of a program's common work."""
    state = processes()
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()
