"""The least times that a device needs for a clip: reading all weights once, computing all products once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from audiolm_compress.planning.devices import Device
from audiolm_compress.planning.layers import Layer
from audiolm_compress.planning.work import (
    Clip,
    PartCost,
    first_reads,
    flops_per_token,
    read_per_token,
)


@dataclass(frozen=True)
class Bound:
    """Least seconds, by what binds.

    Attributes:
        memory: to read the bytes.
        compute: to do the operations.
        both: with the two at the same time within a part, and one part after the other.
    """

    memory: float
    compute: float
    both: float


@dataclass(frozen=True)
class Floor:
    """The least that a device needs for a 10 s clip, before and after the recipe."""

    device: Device
    ttft: tuple[Bound, Bound]
    tpot: tuple[Bound, Bound]


def ttft_bound(device: Device, parts: Mapping[str, PartCost], layers: Sequence[Layer]) -> Bound:
    """Until the first token: the encoders, the connector and the LLM's prompt."""
    reads = first_reads(layers)
    memory = {name: device.reading_seconds(reads[name]) for name in parts}
    compute = {name: device.computing_seconds(part.flops) for name, part in parts.items()}
    return Bound(
        sum(memory.values()),
        sum(compute.values()),
        sum(max(memory[name], compute[name]) for name in parts),
    )


def tpot_bound(device: Device, layers: Sequence[Layer], clip: Clip) -> Bound:
    """For every further token: the LLM at one position."""
    memory = device.reading_seconds(read_per_token(layers, clip))
    compute = device.computing_seconds(flops_per_token(layers, clip))
    return Bound(memory, compute, max(memory, compute))
