"""Upstream's memory and latency evaluation, in its terms."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from audiolm_compress.cli import _run


def test_prints_upstreams_figures(parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one option as upstream spells it and one as other commands do."""
    file = tmp_path / "found.json"
    options = ["--num_it", "3", "--num-warmup", "1", "--device", "cpu", "--json", str(file)]
    assert _run(["efficiency", str(parity / "llama" / "config.yaml"), *options]) == 0
    shown = capsys.readouterr().out
    memory, inference, ttft, tpot = (
        float(re.search(rf"^Average {name}: ([\d.]+) {unit}$", shown, re.MULTILINE)[1])
        for name, unit in (
            ("memory used during inference", "GB"),
            ("inference time", "seconds"),
            ("TTFT", "seconds"),
            ("TPOT", "seconds"),
        )
    )
    assert memory > 0 and ttft > tpot > 0
    assert inference == pytest.approx(ttft + tpot, abs=2e-4)  # each is rounded to 1e-4
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["ttft"]["spread"]["runs"] == 3
    assert found["inference"]["mean"] == pytest.approx(found["ttft"]["mean"] + found["tpot"]["mean"])
    assert found["ttft"]["mean"] == pytest.approx(ttft, abs=1e-4)
    assert "3 iterations after 1 for warming up" in shown.replace("\n", " ")
    told = " ".join(shown.split())
    assert all(f"- {line}" in told for line in (*found["notes"], *found["differences_from_upstream"]))
