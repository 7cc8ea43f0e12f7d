"""The fitted reader against least squares on the inputs themselves."""

from __future__ import annotations

import pytest
import torch

from audiolm_compress.pruning.choice import together
from audiolm_compress.pruning.reconstruct import correct


def inputs(rows: int, channels: int) -> torch.Tensor:
    """Correlated, with a mean, and one channel that is always silent."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(channels, channels, generator=generator)
    x = torch.randn(rows, channels, generator=generator) @ mix + torch.randn(channels, generator=generator)
    x[:, 3] = 0
    return x.double()


@pytest.mark.parametrize("with_bias", [True, False])
def test_nearly_least_squares(with_bias: bool) -> None:
    x, kept = inputs(400, 12), [0, 2, 3, 5, 8, 11]
    weight = torch.randn(7, 12, generator=torch.Generator().manual_seed(2)).double()
    bias = torch.linspace(-1, 1, 7).double() if with_bias else None
    full = x @ weight.T + (0 if bias is None else bias)
    ones = torch.ones(len(x), 1).double() if with_bias else torch.ones(len(x), 0).double()
    augmented = torch.cat((x, ones), dim=1)
    made = correct(weight, bias, augmented.T @ augmented / len(x), kept)
    share = full.square().sum()
    removed = (x[:, kept] @ weight[:, kept].T + (0 if bias is None else bias) - full).square().sum() / share
    left = (
        x[:, kept] @ made.weight.T + (0 if made.bias is None else made.bias) - full
    ).square().sum() / share
    assert made.error_removed == pytest.approx(float(removed))
    assert made.error == pytest.approx(float(left))
    reading = torch.cat((x[:, kept], ones), dim=1)
    solution = torch.linalg.lstsq(reading, full, driver="gelsd").solution
    least = float((reading @ solution - full).square().sum() / share)
    assert least <= made.error <= least + 0.02 * float(removed)
    assert torch.equal(made.weight[:, 2], weight[:, 3])  # nothing is learnt about the silent channel


def test_copies_of_kept_channels_are_no_loss() -> None:
    x = inputs(200, 6)
    x = torch.cat((x, 2 * x[:, :3]), dim=1)
    weight = torch.ones(4, 9).double()
    made = correct(weight, None, x.T @ x / len(x), list(range(6)))
    assert made.error < 0.001 * made.error_removed


def test_all_channels_kept_changes_nothing() -> None:
    x, weight = inputs(50, 5), torch.eye(5).double()
    made = correct(weight, None, x.T @ x / len(x), range(5))
    assert torch.equal(made.weight, weight)
    assert made.error_removed == made.error == 0


def test_layers_count_alike_in_common_scores() -> None:
    loud, soft = torch.tensor([300.0, 100.0, 200.0]), torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(together([loud, soft]), torch.tensor([2.0, 1.5, 2.5]))
