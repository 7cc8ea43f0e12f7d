"""The training loop: it learns, it repeats, and a run that was cut off ends like one that was not."""

from __future__ import annotations

import itertools
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from audiolm_compress.errors import DataError
from audiolm_compress.training import (
    BEST,
    CHECKPOINT,
    CURVE,
    Mean,
    TrainResult,
    TrainSettings,
    rate_at,
    train,
)

POINTS = torch.linspace(-1, 1, 12).reshape(12, 1)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))


def plan(epoch: int) -> list[list[int]]:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(epoch)).tolist()
    return [order[i : i + 4] for i in range(0, 12, 4)]


def loss(model: nn.Module, batch: list[int]) -> Tensor:
    points = POINTS[batch]
    return (model(points) - points.square()).square().mean()


def validate(model: nn.Module) -> float:
    return loss(model, list(range(12))).item()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_learns_and_repeats() -> None:
    settings = TrainSettings(steps=60, learning_rate=0.05, warmup=5, log_every=5)
    first, second = network(), network()
    result = train(first, plan, loss, settings)
    train(second, plan, loss, settings)
    assert result.steps == 60
    assert result.curve[-1]["loss"] < result.curve[0]["loss"] / 2
    assert torch.equal(weights(first), weights(second))
    assert not first.training


def test_continues_where_it_was_cut_off(tmp_path: Path) -> None:
    settings = TrainSettings(steps=11, learning_rate=0.05, accumulation=2, save_every=4, validate_every=3)
    whole, cut = network(), network()
    expected = train(whole, plan, loss, settings, folder=tmp_path / "whole", validate=validate)

    calls = 0

    def breaks(model: nn.Module, batch: list[int]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 13:
            raise KeyboardInterrupt
        return loss(model, batch)

    with pytest.raises(KeyboardInterrupt):
        train(cut, plan, breaks, settings, folder=tmp_path / "cut", validate=validate)
    again = network()
    result = train(again, plan, loss, settings, folder=tmp_path / "cut", validate=validate)
    assert torch.equal(weights(again), weights(whole))
    assert (result.best, result.best_step) == (expected.best, expected.best_step)
    assert json.loads((tmp_path / "cut" / CURVE).read_text())[-1] == result.curve[-1]


def test_accumulated_batches_equal_one_large_batch() -> None:
    def plain() -> nn.Module:
        torch.manual_seed(3)
        return nn.Linear(1, 1)

    halves, whole = plain(), plain()
    train(
        halves, lambda _: [[0, 1], [2, 3]], loss, TrainSettings(steps=3, learning_rate=0.01, accumulation=2)
    )
    train(whole, lambda _: [[0, 1, 2, 3]], loss, TrainSettings(steps=3, learning_rate=0.01))
    torch.testing.assert_close(weights(halves), weights(whole))


def test_batches_weigh_as_much_as_what_they_are_means_over() -> None:
    def plain() -> nn.Module:
        torch.manual_seed(3)
        return nn.Linear(1, 1)

    def counted(model: nn.Module, batch: list[int]) -> Mean:
        return Mean(loss(model, batch), len(batch))

    parts, whole = plain(), plain()
    train(
        parts, lambda _: [[0], [1, 2, 3]], counted, TrainSettings(steps=3, learning_rate=0.01, accumulation=2)
    )
    train(whole, lambda _: [[0, 1, 2, 3]], loss, TrainSettings(steps=3, learning_rate=0.01))
    torch.testing.assert_close(weights(parts), weights(whole))


def test_gradients_are_clipped() -> None:
    def length(clip_norm: float | None) -> float:
        """Of the gradient that AdamW got in its first step."""
        found: list[float] = []

        def look(result: TrainResult, optimizer: torch.optim.Optimizer) -> None:
            means = [state["exp_avg"].flatten() for state in optimizer.state.values()]
            found.append(torch.cat(means).norm().item() / (1 - settings.betas[0]))

        settings = TrainSettings(steps=1, learning_rate=0.01, clip_norm=clip_norm)
        train(network(), plan, loss, settings, after_step=look)
        return found[0]

    whole = length(None)
    assert length(whole / 2) == pytest.approx(whole / 2, rel=1e-4)
    assert length(whole * 2) == pytest.approx(whole, rel=1e-4)


def test_tensorboard_gets_the_curve(tmp_path: Path) -> None:
    settings = TrainSettings(steps=4, learning_rate=0.01, log_every=2, log_with=("tensorboard",))
    train(network(), plan, loss, settings, folder=tmp_path, validate=validate)
    content = b"".join(file.read_bytes() for file in tmp_path.rglob("events.out.tfevents.*"))
    for name in (b"loss", b"rate", b"validation"):
        assert name in content
    with pytest.raises(DataError, match="needs a folder"):
        train(network(), plan, loss, settings)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_that_is_not_installed_is_named(tmp_path: Path) -> None:
    settings = TrainSettings(steps=1, learning_rate=0.01, log_with=("wandb",))
    with pytest.raises(DataError, match="pip install wandb"):
        train(network(), plan, loss, settings, folder=tmp_path)


def test_frozen_modules_have_no_dropout() -> None:
    model = nn.ModuleDict({"frozen": network().requires_grad_(False), "learned": network()})

    def watched(_: nn.Module, batch: list[int]) -> Tensor:
        assert not any(module.training for module in model["frozen"].modules())
        assert all(module.training for module in model["learned"].modules())
        return loss(model["learned"], batch)

    train(model, plan, watched, TrainSettings(steps=1, learning_rate=0.1))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_16_bit_products_train_weights_of_32_bit(precision: str, dtype: torch.dtype) -> None:
    model = network()

    def watched(_: nn.Module, batch: list[int]) -> Tensor:
        assert model[0](POINTS).dtype == dtype
        return loss(model, batch)

    settings = TrainSettings(steps=40, learning_rate=0.05, log_every=4, mixed_precision=precision)
    result = train(model, plan, watched, settings)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]


def test_leaves_the_best_weights_and_frozen_ones_alone(tmp_path: Path) -> None:
    model = network()
    frozen = model[0]
    frozen.requires_grad_(False)
    before = weights(frozen)
    scores = iter([3.0, 1.0, 2.0])
    seen: list[Tensor] = []

    def watch(model: nn.Module) -> float:
        assert not model.training
        seen.append(weights(model))
        return next(scores)

    settings = TrainSettings(steps=3, learning_rate=0.1, validate_every=1)
    result = train(model, plan, loss, settings, validate=watch, folder=tmp_path)
    assert (result.best, result.best_step) == (1.0, 2)
    assert torch.equal(weights(model), seen[1])
    assert torch.equal(weights(frozen), before)
    assert (tmp_path / BEST).exists()


def test_rate_warms_up_and_decays() -> None:
    settings = TrainSettings(steps=110, learning_rate=1.0, warmup=10, final_rate=0.1)
    rates = [rate_at(step, settings) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == max(rates) == 1.0
    assert rates[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_ends_after_the_minutes_and_does_not_begin_anew(tmp_path: Path) -> None:
    settings = TrainSettings(steps=10**6, minutes=0.002, learning_rate=0.01)
    result = train(network(), plan, loss, settings, folder=tmp_path)
    assert 0 < result.steps < 10**6
    assert result.seconds >= 60 * 0.002
    assert result.curve[-1]["step"] == result.steps
    # The time taken is part of the checkpoint: nothing is left of the minutes.
    again = train(network(), plan, loss, settings, folder=tmp_path)
    assert (again.steps, again.seconds) == (result.steps, result.seconds)


def test_rate_follows_the_larger_share_of_steps_and_minutes() -> None:
    timed = TrainSettings(steps=100, minutes=1.0, learning_rate=1.0, final_rate=0.1)
    untimed = timed.model_copy(update={"minutes": None})
    assert rate_at(50, timed, seconds=0.0) == rate_at(50, untimed)
    assert rate_at(0, timed, seconds=30.0) == pytest.approx(rate_at(50, untimed))
    assert rate_at(0, timed, seconds=60.0) == rate_at(0, timed, seconds=90.0) == pytest.approx(0.1)


def test_refuses_what_cannot_be_trained(tmp_path: Path) -> None:
    settings = TrainSettings(steps=1, learning_rate=0.1)
    with pytest.raises(DataError, match="nothing to train"):
        train(network().requires_grad_(False), plan, loss, settings)
    with pytest.raises(DataError, match="save_every=3, but there is no folder to save in"):
        train(network(), plan, loss, TrainSettings(steps=9, learning_rate=0.1, save_every=3))
    with pytest.raises(DataError, match="epoch 0"):
        train(network(), lambda _: [], loss, settings)
    with pytest.raises(DataError, match="the loss at step 0 is nan"):
        train(network(), plan, lambda model, batch: loss(model, batch) * float("nan"), settings)
    with pytest.raises(DataError, match="mean over 0 things"):
        train(network(), plan, lambda model, batch: Mean(loss(model, batch), 0), settings)
    with pytest.raises(DataError, match="score is no number"):
        train(network(), plan, loss, settings, validate=lambda model: float("nan"))
    train(network(), plan, loss, settings, folder=tmp_path)
    with pytest.raises(DataError, match="other parameters"):
        train(nn.Linear(1, 1), plan, loss, settings, folder=tmp_path)
    narrow = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Dropout(0.1), nn.Linear(1, 1))
    with pytest.raises(DataError, match=r"other shapes: 0.weight \[8, 1\] \(now \[1, 1\]\)"):
        train(narrow, plan, loss, settings, folder=tmp_path)
    other = TrainSettings(steps=2, learning_rate=0.2, log_every=7)
    with pytest.raises(DataError, match=r"learning_rate 0.1 \(now 0.2\); take"):
        train(network(), plan, loss, other, folder=tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(DataError, match="remove it to begin anew"):
        train(network(), plan, loss, settings, folder=tmp_path)
