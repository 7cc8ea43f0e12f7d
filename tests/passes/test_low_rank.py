from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.cast import Cast
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.low_rank import LowRank
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.quantization.low_rank import (
    LowRankLinear,
    OutputStatistics,
    Spectrum,
    allot_ranks,
    factorise,
    largest_rank,
    numbers,
    output_spectrum,
)
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model

Loader = Callable[..., Salmonn]


def problem(inputs: int, outputs: int, bias: bool = True) -> tuple[nn.Linear, Tensor]:
    """A layer and inputs [3000, in] with a large mean and few strong directions."""
    torch.manual_seed(inputs)
    linear = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    scales = torch.linspace(3, 0, inputs).exp()
    x = torch.randn(3000, inputs) * scales @ torch.linalg.qr(torch.randn(inputs, inputs))[0]
    return linear, x + 5


def spectrum(linear: nn.Linear, x: Tensor) -> Spectrum:
    statistics = OutputStatistics(linear)
    for rows in x.split(700):
        statistics.add(rows, linear(rows))
    return output_spectrum(linear, statistics, min(linear.weight.shape))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@torch.no_grad()
def mean_error(module: nn.Module, linear: nn.Linear, x: Tensor) -> float:
    return float((module(x).double() - linear(x).double()).square().sum(1).mean())


SHAPES = [(48, 80, True), (80, 48, True), (64, 64, False)]


@pytest.mark.parametrize(("inputs", "outputs", "bias"), SHAPES)
def test_full_rank_is_the_layer(inputs: int, outputs: int, bias: bool) -> None:
    linear, x = problem(inputs, outputs, bias)
    whole = factorise(linear, spectrum(linear, x), min(inputs, outputs), generator())
    torch.testing.assert_close(whole(x), linear(x), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs", "bias"), SHAPES)
def test_the_error_is_the_variance_left_out(inputs: int, outputs: int, bias: bool) -> None:
    linear, x = problem(inputs, outputs, bias)
    found = spectrum(linear, x)
    expected = torch.cov(linear(x).double().T, correction=0)
    torch.testing.assert_close(found.variances.sum(), expected.trace(), rtol=1e-4, atol=0)
    for rank in (1, 16, 32):
        error = mean_error(factorise(linear, found, rank, generator()), linear, x)
        assert error == pytest.approx(float(found.variances[rank:].sum()), rel=1e-3)
        assert found.error(rank) == pytest.approx(error / float(expected.trace()), rel=1e-3)


@pytest.mark.parametrize(("inputs", "outputs", "bias"), SHAPES)
def test_better_than_svd_of_the_weight_and_than_factors_nearby(inputs: int, outputs: int, bias: bool) -> None:
    """Neither plain SVD nor a step away from our own factors gives a smaller error at the same rank."""
    linear, x = problem(inputs, outputs, bias)
    ours = factorise(linear, spectrum(linear, x), 16, generator())
    error = mean_error(ours, linear, x)
    u, s, v = torch.linalg.svd(linear.weight)
    plain = LowRankLinear(inputs, outputs, 16)
    plain.load_state_dict(
        {
            "reduce.weight": v[:16],
            "expand.weight": u[:, :16] * s[:16],
            "expand.bias": torch.zeros(outputs) if linear.bias is None else linear.bias,
        }
    )
    assert error < 0.9 * mean_error(plain, linear, x)
    for parameter in ours.parameters():
        parameter.data += 1e-3 * torch.randn_like(parameter)
        assert mean_error(ours, linear, x) > error


def test_no_value_between_the_factors_is_far_larger_than_the_others() -> None:
    linear, x = problem(128, 128)
    found = spectrum(linear, x)
    inner = factorise(linear, found, 48, generator()).reduce(x).var(0)
    straight = found.variances[:48]
    assert inner.max() / inner.mean() < 0.5 * straight.max() / straight.mean()
    assert float(inner.detach().sum()) == pytest.approx(float(straight.sum()), rel=1e-3)


def test_rank_by_energy_is_the_smallest_multiple() -> None:
    variances = torch.tensor([8.0] + [1.0] * 31 + [0.0] * 32, dtype=torch.float64)
    found = Spectrum(torch.zeros(64), variances, torch.eye(64))
    assert found.rank(0.5) == 16
    assert found.rank((8 + 15) / 39) == 16
    assert found.rank((8 + 15.1) / 39) == 32
    assert found.rank(0.999) == 32


@pytest.mark.parametrize("bias", [False, True])
def test_the_largest_rank_is_the_last_that_saves(bias: bool) -> None:
    for inputs, outputs in ((64, 64), (64, 256), (1280, 5120), (48, 96), (16, 16), (100, 3)):
        linear = nn.Linear(inputs, outputs, bias=bias, device="meta")
        rank = largest_rank(linear)
        saves = [
            numbers(linear, r) < numbers(linear) and r * (inputs + outputs) < inputs * outputs
            for r in range(16, min(inputs, outputs) + 17, 16)
        ]
        assert rank == 16 * sum(saves)


def test_a_budget_is_met_and_spent_well() -> None:
    """Of all choices of ranks within the budget hardly one loses less."""
    linears = {name: nn.Linear(256, 256) for name in ("steep", "flat", "steeper")}
    decay = {"steep": 0.1, "flat": 0.01, "steeper": 0.15}
    options = [None, *range(16, 129, 16)]
    spectra = {
        name: Spectrum(torch.zeros(256), (-rate * torch.arange(256.0).double()).exp(), torch.eye(256))
        for name, rate in decay.items()
    }
    size = {rank: numbers(linears["flat"], rank) for rank in options}
    error = {
        name: {rank: 0.0 if rank is None else spectra[name].error(rank) for rank in options}
        for name in linears
    }
    for budget in (0.2, 0.3, 0.4, 0.6, 0.7):
        ranks = allot_ranks(linears, spectra, budget)
        used = sum(size[rank] for rank in ranks.values())
        assert 0.8 * budget < used / (3 * size[None]) <= budget
        lost = sum(error[name][rank] for name, rank in ranks.items())
        best = min(
            sum(error[name][rank] for name, rank in zip(linears, choice, strict=True))
            for choice in product(options, repeat=3)
            if sum(size[rank] for rank in choice) <= budget * 3 * size[None]
        )
        assert lost <= 1.1 * best
    with pytest.raises(ValueError, match="smallest ranks take"):
        allot_ranks(linears, spectra, 0.1)


def test_layers_of_an_encoder(
    small_model: Loader, context: Context, clips: list[Tensor], tmp_path: Path
) -> None:
    """Errors are those that the replaced layers show on what the dense model's layers read."""
    model, dense = small_model("llama"), small_model("llama")
    report = LowRank(parts=("speech_encoder", "connector"), energy=0.6).apply(model, context)
    assert report.changed
    assert all(row["error"] <= 0.4 and row["kept"] < 1 for row in report.modules)
    row = next(row for row in report.modules if row["name"].startswith("speech_encoder"))
    module, original = model.get_submodule(row["name"]), dense.get_submodule(row["name"])
    read: list[Tensor] = []
    original.register_forward_hook(lambda _, args, output: read.append(args[0].flatten(0, 1)))
    with torch.inference_mode():
        dense.encode_speech([example.waveform for example in context.calibration])
        x = torch.cat(read)
        variance = float(original(x).double().var(0, correction=0).sum())
        assert mean_error(module, original, x) / variance == pytest.approx(row["error"], rel=1e-2)
    before, after = (sum(each.weight_bytes().values()) for each in (dense, model))
    assert report.figures["saved_bytes"] == before - after > 0
    assert {"loss_before", "loss_after"} < report.figures.keys()
    Cast(parts=("speech_encoder",), dtype="bfloat16").apply(model, context)
    assert module.reduce.weight.dtype == torch.bfloat16
    loaded = load_model(store.save(model, tmp_path / "model"))
    assert isinstance(loaded.get_submodule(row["name"]), LowRankLinear)
    with torch.inference_mode():
        assert torch.equal(loaded.encode_audio(clips).embeddings, model.encode_audio(clips).embeddings)
    with pytest.raises(PassError, match="nothing to factorise"):
        names = [row["name"] for row in report.modules]
        rest = [name for name, _ in model.named_modules() if name.startswith("speech") and name not in names]
        linears = [name for name in rest if isinstance(model.get_submodule(name), nn.Linear)]
        skip = tuple(name for name in linears if not name.endswith(("reduce", "expand")))
        LowRank(parts=("speech_encoder",), energy=0.6, skip=skip).apply(model, context)


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
def test_both_factors_can_be_quantised(
    small_model: Loader, context: Context, clips: list[Tensor], tmp_path: Path
) -> None:
    model = small_model("gemma")
    LowRank(energy=0.7).apply(model, context)
    names = [name for name, spec in model.replaced.items() if spec["kind"] == "low_rank"]
    Gptq(parts=("speech_encoder",), bits=8, group_size=-1).apply(model, context)
    for name in names:
        assert (
            model.replaced[f"{name}.reduce"]["kind"] == model.replaced[f"{name}.expand"]["kind"] == "linear"
        )
    loaded = load_model(store.save(model, tmp_path / "model"))
    with torch.inference_mode():
        assert torch.equal(loaded.encode_speech(clips), model.encode_speech(clips))


def test_budget_and_skip(small_model: Loader, context: Context) -> None:
    model = small_model("gemma")
    report = LowRank(parts=("speech_encoder", "llm"), budget=0.7, skip=("*.fc2", "*.q_proj")).apply(
        model, context
    )
    assert 0.4 < report.figures["bytes_kept"] <= 0.7
    assert not any("fc2" in name or "q_proj" in name for name in model.replaced)
    assert "lm_head" not in " ".join(model.replaced)
    assert any(name.startswith("llm.") for name in model.replaced)


def test_layers_that_read_no_audio_are_left_in_the_prediction_too(
    small_model: Loader, context: Context, parity: Path
) -> None:
    """The first self-attention mixes the queries before they look at the audio; all others are replaced."""
    entry = LowRank(parts=("connector",), budget=0.8, loss_clips=2)
    model, sketch = small_model("llama"), Sketch(outline_model(parity / "llama" / "config.yaml").model)
    total = sum(isinstance(module, nn.Linear) for module in model.connector.modules())
    report = entry.apply(model, context)
    entry.predict(sketch)
    (note,) = [note for note in report.notes if "read no audio" in note]
    left = note.partition(": ")[2].split(", ")
    assert note in sketch.notes
    assert len(left) == 4
    assert not set(left) & set(sketch.model.replaced)
    assert set(model.replaced) <= set(sketch.model.replaced)
    assert len(sketch.model.replaced) == total - len(left)


def test_energy_that_saves_nothing_is_told(small_model: Loader, context: Context) -> None:
    model = small_model()
    report = LowRank(energy=0.999999999).apply(model, context)
    assert not report.changed
    assert model.replaced == {}
    assert "save nothing" in report.summary


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"energy": 0.9, "skip": ("*",)}, "nothing to factorise"),
        ({"energy": 0.9, "skip": ("*.fc7",)}, r"skip '\*.fc7' matches no layer"),
        ({"budget": 0.01}, "budget=0.01 is out of reach"),
    ],
)
def test_impossible_settings(
    small_model: Loader, context: Context, choice: dict[str, Any], message: str
) -> None:
    model = small_model()
    with pytest.raises(PassError, match=message):
        LowRank(**choice).apply(model, context)
    assert model.replaced == {}


def test_too_little_data(small_model: Loader, context: Context) -> None:
    model = small_model()
    with pytest.raises(PassError, match="no calibration clips"):
        LowRank(energy=0.9).apply(model, dataclasses.replace(context, calibration=[]))
    short = dataclasses.replace(
        context.calibration[0], waveform=context.calibration[0].waveform[:8000], text="a"
    )
    with pytest.raises(PassError, match=r"can vary in \d+ directions and need more"):
        LowRank(parts=("audio_encoder",), energy=0.9).apply(
            model, dataclasses.replace(context, calibration=[short])
        )
    model.audio_encoder = None
    with pytest.raises(PassError, match="no audio_encoder"):
        LowRank(parts=("audio_encoder",), energy=0.9).apply(model, context)


@pytest.mark.parametrize("choice", [{}, {"energy": 0.9, "budget": 0.5}, {"energy": 1.0}, {"budget": 0.0}])
def test_contradictions_are_refused_on_reading(choice: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        LowRank(**choice)
