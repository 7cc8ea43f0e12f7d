"""What goes into Linears on calibration data, and which way the loss pulls their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Runs = Sequence[Callable[[], object]]
Masks = Sequence[Tensor | None]


def mean_squares(linears: Sequence[nn.Linear], runs: Runs, masks: Masks) -> dict[nn.Linear, Tensor]:
    """Mean square of each input, float32 [in], over the positions that count."""
    return _means(linears, runs, masks, lambda _, rows: rows.square().sum(0))


def second_moments(linears: Sequence[nn.Linear], runs: Runs, masks: Masks) -> dict[nn.Linear, Tensor]:
    """Mean x x^T, float32 [in, in]; [in + 1, in + 1] for a Linear with a bias, whose last input is 1.

    Args:
        linears: all of them are called once in each run, with [batch, length, in].
        runs: each computes one calibration batch.
        masks: for each run, which positions count, [batch, length]; None for all.
    """

    def outer(linear: nn.Linear, rows: Tensor) -> Tensor:
        if linear.bias is not None:
            rows = torch.cat((rows, rows.new_ones(len(rows), 1)), dim=1)
        return rows.T @ rows

    return _means(linears, runs, masks, outer)


def _means(
    linears: Sequence[nn.Linear],
    runs: Runs,
    masks: Masks,
    summed: Callable[[nn.Linear, Tensor], Tensor],
) -> dict[nn.Linear, Tensor]:
    """Sum over calibration inputs as float32 rows, divided by their number."""
    sums: dict[nn.Linear, Tensor] = {}
    counts = dict.fromkeys(linears, 0)
    for run, mask in zip(runs, masks, strict=True):

        def hook(module: nn.Module, args: tuple[Tensor, ...], mask: Tensor | None = mask) -> None:
            assert isinstance(module, nn.Linear)
            x = args[0].detach()
            rows = (x.flatten(0, -2) if mask is None else x[mask.bool()]).float()
            counts[module] += len(rows)
            new = summed(module, rows)
            sums[module] = sums[module].add_(new) if module in sums else new

        handles = [linear.register_forward_pre_hook(hook) for linear in linears]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
    return {linear: total / counts[linear] for linear, total in sums.items()}


@contextmanager
def gradients(weights: Sequence[Tensor], losses: Sequence[Callable[[], Tensor]]) -> Iterator[None]:
    """Inside, ``weights`` hold the gradient of the sum of ``losses``; no other tensor is touched.

    Args:
        weights: floating leaves that all losses depend on.
        losses: each computes one scalar.
    """
    flags = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
            weight.grad = torch.zeros_like(weight)
        for loss in losses:
            with torch.enable_grad():
                found = torch.autograd.grad(loss(), list(weights))
            for weight, gradient in zip(weights, found, strict=True):
                assert weight.grad is not None
                weight.grad += gradient
        yield
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.grad = None
            weight.requires_grad_(flag)
