"""The plan of a recipe: its figures, its refusals, and what the command shows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audiolm_compress.cli import _run
from audiolm_compress.errors import PassError
from audiolm_compress.planner import plan

PASSES: list[dict[str, Any]] = [
    {"pass": "merge_lora"},
    {"pass": "cast", "parts": ["speech_encoder", "audio_encoder", "connector"]},
    {"pass": "gptq", "group_size": 32},
    {"pass": "quantize_embedding"},
]


def test_plan_of_the_embedded_baseline() -> None:
    made = plan({"passes": PASSES})
    assert [stage.name for stage in made.stages] == ["baseline", *(entry["pass"] for entry in PASSES)]
    before, after = made.stages[0], made.stages[-1]
    assert before.parts["speech_encoder"].bytes == 2 * after.parts["speech_encoder"].bytes
    assert before.parameters > after.parameters  # the adapters
    assert before.read_per_token > 2 * after.read_per_token
    assert [floor.device.name for floor in made.floors[1:]] == ["V100", "A100", "H100"]
    assert made.floors[0].device.measured
    for floor in made.floors:
        assert floor.ttft[0] > floor.ttft[1] > 0
        assert floor.tpot[0] > floor.tpot[1] > 0
    assert made.disk_bytes > after.file_bytes
    assert all(seconds > 0 for seconds in made.seconds.values())
    assert json.loads(json.dumps(made.to_dict()))["stages"][-1]["bytes"] == after.bytes


def test_an_impossible_pass_is_refused_with_its_position() -> None:
    with pytest.raises(PassError, match=r"^pass 2 of 2 \(after merge_lora\): gptq: .* matches no layer"):
        plan({"passes": [PASSES[0], {"pass": "gptq", "overrides": [{"match": "nothing", "bits": 8}]}]})


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(json.dumps({"passes": PASSES}), encoding="utf-8")
    out = tmp_path / "plan.json"
    assert _run(["plan", str(recipe), "--set", "passes.2.bits=8", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    for word in ("small on tiny", "quantize_embedding", "V100", "TPOT", "an estimate"):
        assert word in shown
    assert json.loads(out.read_text(encoding="utf-8"))["recipe"] == "small"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("passes: [{pass: merge_lore}]", "did you mean 'merge_lora'?"),
        ("passes: [{pass: merge_lora}, {pass: gptq, group_size: 32}, {pass: gptq}]", "pass 3 of 3"),
        ("{baseline: tiny, passes: [{pass: merge_lora}], data: {calibration: gone.json}}", "no such file"),
    ],
)
def test_a_bad_recipe_ends_with_code_2(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(text, encoding="utf-8")
    assert _run(["plan", str(recipe)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
