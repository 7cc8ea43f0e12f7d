"""Benchmarks compare what computes the same, hide nothing that is faster, and put in the faults they tell."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from audiolm_compress.data.audit import audit
from audiolm_compress.quantization import Scheme

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of benchmarks/ as it is when it runs: beside its neighbours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module(request.param)
    monkeypatch.delitem(sys.modules, request.param)
    return module


@pytest.mark.parametrize("script", ["kernel_products"], indirect=True)
@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 64, progressive=True), Scheme(8, -1), None])
def test_all_products_compute_the_layer(script: ModuleType, scheme: Scheme | None) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 96, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    subject = script.packed(linear.weight.float(), scheme) if scheme else script.int8(linear)
    x = torch.randn(5, 128, dtype=torch.bfloat16)
    expected = linear(x).float()
    with torch.inference_mode():
        for name, call in subject.products.items():
            error = (call(x).float() - expected).norm() / expected.norm()
            assert error < (0.15 if scheme and scheme.bits == 4 else 0.02), name
    for choice in subject.choices:
        for rows in (1, 500):
            chosen = choice.product(rows)
            assert set(subject.products) <= {chosen, *choice.reasons}


@pytest.mark.parametrize("script", ["kernels"], indirect=True)
@pytest.mark.parametrize(
    ("chosen", "note"),
    [([1.0, 1.2, 1.1], ""), ([1.3, 1.2, 1.4], "why not"), ([1.06, 1.26, 1.16], "")],
    ids=["fastest", "slower", "within noise"],
)
def test_a_slower_choice_gets_its_note(script: ModuleType, chosen: list[float], note: str) -> None:
    """Noise is 10 %: the median difference of the two times of the 16-bit layer."""
    times = {
        script.SIXTEEN_BIT: [2.0, 2.0, 2.0],
        "chosen": chosen,
        "other": [1.01, 1.21, 1.11],
        "out of the race": [0.1, 9.0],
        script.AGAIN: [2.2, 2.0, 2.4],
    }
    found = script.verdict(times, "chosen", {"other": "why not"})
    assert found["noise"] == pytest.approx(0.1)
    assert found["note"] == note
    assert found["ratio"] == pytest.approx(sorted(chosen)[1] / 2, abs=1e-3)
    assert found["fastest"] == ("chosen" if chosen[0] < 1.01 else "other")


@pytest.mark.parametrize("script", ["audit"], indirect=True)
def test_the_index_holds_the_faults_that_are_told(script: ModuleType, tmp_path: Path) -> None:
    entries = 12_000
    assert script.make_audio(tmp_path, entries) == entries // script.AUDIO_SHARE
    expected = script.make_indexes(tmp_path, entries)
    found = audit([tmp_path / "train.json", tmp_path / "test.json"], audio=False).parts[0].findings
    assert all(expected.values()) and {kind: found[kind] for kind in expected} == expected


def test_the_largest_index_stayed_under_a_gibibyte() -> None:
    content = json.loads((BENCHMARKS / "results" / "audit.json").read_text(encoding="utf-8"))
    largest = content["indexes"][-1]
    assert largest["entries"] >= 1_600_000
    assert all(command["peak_bytes"] < 2**30 for command in largest["commands"].values())
