"""Groups of coupled channels and their importance, by Torch-Pruning (Fang et al., arXiv:2301.12900).

A group says which rows and columns of which Linears go together. For FFNs Torch-Pruning's dependency graph
finds them: it traces the layer through autograd and follows the channels of the first Linear to wherever they
end. What it finds is compared with what we expect, so that a layer of unknown build is refused and not
damaged. For attention the graph is of no use: it sees the product of queries and keys as an elementwise
operation, loses the indices where key heads are repeated for the query heads that share them, and knows
nothing of BEATs' gates, one Linear for all heads. There, groups are built by hand, of the same objects: one
for each projection. Importance classes and the cutting of weights are Torch-Pruning's in both cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.dependency import Dependency, Group
from torch_pruning.dependency.node import Node

from audiolm_compress.errors import PassError
from audiolm_compress.pruning.inner import Inner

Kind = Literal["taylor", "magnitude", "activation"]


class ActivationImportance(tp.importance.Importance):
    """What the reader's output loses with a channel: mean x_j^2 |w_j|^2 (as Wanda, arXiv:2306.11695).

    Args:
        mean_squares: reading Linear -> mean square of each of its inputs, float [in].
    """

    def __init__(self, mean_squares: Mapping[nn.Linear, Tensor]) -> None:
        self.mean_squares = mean_squares

    def __call__(self, group: Any) -> Tensor | None:
        """Scores of the group's channels; None if it has no reader."""
        for dependency, indices in group:
            linear = dependency.target.module
            if dependency.handler == tp.prune_linear_in_channels and linear in self.mean_squares:
                columns = linear.weight.detach().float().square().sum(0)
                return (self.mean_squares[linear] * columns)[indices]
        return None


def importance(
    kind: Kind, mean_squares: Mapping[nn.Linear, Tensor] | None = None
) -> tp.importance.Importance:
    """The importance of a name; ``taylor`` reads the gradients that the weights hold."""
    if kind == "activation":
        assert mean_squares is not None
        return ActivationImportance(mean_squares)
    if kind == "taylor":
        return tp.importance.GroupTaylorImportance(normalizer=None)
    return tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)


def unit_scores(inner: Inner, score: tp.importance.Importance) -> Tensor:
    """Importance of every unit, float32 [units]: that of its channels, summed."""
    total = torch.zeros(inner.units, device=inner.reader.weight.device)
    for group in _groups(inner, range(inner.units)):
        channels = score(group)
        if channels is not None:
            total += channels.float().view(inner.units, -1).sum(1)
    return total


def remove_units(inner: Inner, kept: Sequence[int]) -> None:
    """Cut the weights down to the units ``kept``, ascending; whether they need gradients stays as it was."""
    gone = sorted(set(range(inner.units)) - set(kept))
    flags = [(linear, linear.weight.requires_grad) for linear in (*inner.writers, inner.reader)]
    for group in _groups(inner, gone):
        group.prune(record_history=False)
    for linear, flag in flags:
        linear.requires_grad_(flag)


def columns(inner: Inner, units: Sequence[int]) -> list[int]:
    """The reader's columns that belong to ``units``."""
    size = inner.reader.in_features // inner.units
    return [unit * size + offset for unit in units for offset in range(size)]


def _groups(inner: Inner, units: Sequence[int]) -> list[Group]:
    """All that must be cut to remove ``units``."""
    if inner.module is not None:
        return [_traced(inner, units)]
    groups = []
    for linear in inner.writers:
        size = linear.out_features // inner.units
        rows = [unit * size + offset for unit in units for offset in range(size)]
        groups.append(_built(linear, tp.prune_linear_out_channels, rows))
    return [*groups, _built(inner.reader, tp.prune_linear_in_channels, columns(inner, units))]


def _traced(inner: Inner, units: Sequence[int]) -> Group:
    """The group that the dependency graph finds behind the first writer."""
    assert inner.module is not None
    weight = inner.writers[0].weight
    example = torch.zeros(1, 2, weight.shape[1], dtype=weight.dtype, device=weight.device, requires_grad=True)
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(
            inner.module, example, forward_fn=inner.run, verbose=False
        )
    group = graph.get_pruning_group(inner.writers[0], tp.prune_linear_out_channels, list(units))
    found = {
        (dependency.target.module, graph.is_out_channel_pruning_fn(dependency.handler))
        for dependency, _ in group
        if isinstance(dependency.target.module, nn.Parameter) or list(dependency.target.module.parameters())
    }
    if found != {(linear, True) for linear in inner.writers} | {(inner.reader, False)}:
        raise PassError(
            f"prune_width: in {inner.name} the channels of the FFN also reach other weights; "
            f"leave ffn at 1.0 for this model"
        )
    return group


def _built(linear: nn.Linear, prune: Any, channels: Sequence[int]) -> Group:
    """A group of one Linear."""
    node = Node(linear, grad_fn=None)
    group = Group()
    group.add_dep(Dependency(prune, prune, source=node, target=node), list(channels))
    group[0].root_idxs = list(range(len(channels)))
    return group
