"""Work shared by the processes of ``accelerate launch``: each takes a share, all get the whole result.

In a program that was started plainly there is one process, and these functions hand back what they are given.

Example:
    >>> items = ["a", "b", "c"]
    >>> gather([item.upper() for item in shard(items)])
    ['A', 'B', 'C']
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor

Item = TypeVar("Item")


def processes() -> PartialState:
    """The processes of this program; without a CUDA card they talk through gloo."""
    return PartialState(cpu=not torch.cuda.is_available())


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """This process's share: every n-th item of n processes. The shares of some may be one item shorter."""
    state = processes()
    return items[state.process_index :: state.num_processes]


def gather(own: Sequence[Item]) -> list[Item]:
    """The results of all processes for the items of :func:`shard`, in the order of the items.

    Every process must call it, with one result an item of its share.
    """
    count = processes().num_processes
    if count == 1:
        return list(own)
    shares = gather_object([list(own)])
    return [shares[index % count][index // count] for index in range(sum(map(len, shares)))]


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
