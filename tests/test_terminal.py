"""What a run shows while it goes on, on a terminal and elsewhere, and how results are given to programs."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from audiolm_compress.cli import _run, cli
from audiolm_compress.cli import live as live_module
from audiolm_compress.cli.completion import VARIABLE, complete_recipes, pass_names
from audiolm_compress.cli.live import Line, Live, Shared, unbroken
from audiolm_compress.cli.options import joined
from audiolm_compress.cli.passes import settings
from audiolm_compress.cli.progress import Lines, shown_progress
from audiolm_compress.doctor.kernels import RATIOS
from audiolm_compress.passes import PASSES
from audiolm_compress.passes.base import Progress

ROOT = Path(__file__).parents[1]


def work(progress: Progress) -> None:
    """What a run tells its progress."""
    progress.stage("reading the clips")
    progress.start("reading the test clips", 1)
    progress.stage("pass 1 of 1: distill")
    progress.start("distill: training", 8)
    for step in range(8):
        progress.figure("training loss", 1.0 / (step + 1))
        progress.advance()
    progress.note("54.21 MiB; connector trained")


def test_elsewhere_there_is_a_line_for_each_thing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress() as progress:
        assert isinstance(progress, Lines)
        work(progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.partition(" s] ")[2] for line in captured.err.splitlines()] == [
        "reading the clips",
        "  reading the test clips",
        "pass 1 of 1: distill",
        "  distill: training",
        "  distill: training: 2/8, training loss 0.5000",
        "  distill: training: 4/8, training loss 0.2500",
        "  distill: training: 6/8, training loss 0.1667",
        "  distill: training: 8/8, training loss 0.1250",
        "  = 54.21 MiB; connector trained",
    ]
    with shown_progress(quiet=True) as progress:
        work(progress)
    assert capsys.readouterr().err == ""


def on_a_terminal(width: int) -> tuple[Shared, io.StringIO]:
    stream = io.StringIO()
    return Shared(file=stream, force_terminal=True, width=width, color_system=None), stream


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_stages_stay_with_what_they_gave(width: int) -> None:
    console, stream = on_a_terminal(width)
    with Live(console) as live:
        live.stage("trial 3: bits=4")  # holds no work itself
        work(live)
        moving = io.StringIO()
        Console(file=moving, width=width).print(live._now())
    lines = [line.rstrip() for line in moving.getvalue().splitlines()]
    assert "▸ pass 1 of 1: distill" in lines[0]
    assert "training" in lines[1] and "8/8" in lines[1]
    assert "training loss 0.1250" in lines[2]
    assert all(len(line) <= width for line in lines)
    assert "trial 3: bits=4\n" in stream.getvalue()
    done = [line for line in stream.getvalue().splitlines() if "✓" in line]
    assert ["reading the clips" in done[0], "54.21 MiB" in done[1]] == [True, True]
    assert all(line.rstrip().endswith(" s") for line in done)


def test_lines_outside_of_stages_are_stages_themselves() -> None:
    console, stream = on_a_terminal(80)
    with Live(console) as live:
        live.start("loading the model", 1)
        live.start("answering 4 clips", 4)
    done = [line.split("  ")[0] for line in screen(stream.getvalue()) if line]
    assert done == ["✓ loading the model", "✓ answering 4 clips"]


def screen(written: str) -> list[str]:
    """The lines that a terminal shows of what was written to it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", written):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part.endswith("A"):
            row = max(0, row - int(part[2:-1]))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_no_line_is_lost_where_the_view_is_drawn_while_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_REFRESH_SECONDS", 0.0005)
    console, stream = on_a_terminal(80)
    with Live(console) as live:
        for number in range(60):
            live.stage(f"pass {number} of 60: cast")
            for _ in range(number % 3):
                live.start("work of a long description that is broken into two lines", 4)
                live.figure("loss", 1.0)
            live.note(f"first {number}\nsecond {number}")
    shown = screen(stream.getvalue())
    expected = [text for number in range(60) for text in (f"first {number}", f"second {number}")]
    assert len([line for line in shown if line]) == len(expected)
    assert all(text in line for text, line in zip(expected, shown, strict=False))


def test_a_stage_that_fails_is_marked() -> None:
    console, stream = on_a_terminal(80)
    with pytest.raises(KeyboardInterrupt), Live(console) as live:
        live.stage("measuring")
        raise KeyboardInterrupt
    assert "✗ measuring" in stream.getvalue()
    assert "stopped here" in stream.getvalue()


def test_time_left_is_of_the_line_and_by_its_rate() -> None:
    line = Line("answering", 10)
    assert line.seconds_left() is None
    line._begin -= 20
    line.done = 4
    assert line.seconds_left() == pytest.approx(30, rel=0.01)
    line.done = 10
    assert line.seconds_left() is None


def test_what_libraries_say_appears_as_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of handlers that were made before, as transformers' is."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logger, handler = logging.getLogger("a.library"), logging.StreamHandler()
    logger.addHandler(handler)
    try:
        console = Shared(file=stream, force_terminal=True, width=80, color_system=None)
        with Live(console) as live, unbroken():
            work(live)
            assert handler.stream is sys.stderr is not stream
            logger.warning("something is slow")
            print("something is old", file=sys.stderr)  # as the warnings module does
        assert handler.stream is stream
    finally:
        logger.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert any(line.rstrip().endswith("something is slow") for line in lines)
    assert any("something is old" in line for line in lines)
    assert not any("▸" in line and "something" in line for line in lines)


def test_json_may_stand_alone() -> None:
    assert joined(["a", "--json", "b", "--json", "c.json"]) == ["a", "--json=-", "b", "--json=c.json"]
    assert joined(["--json", "-", "--", "--json"]) == ["--json=-", "--", "--json"]


def test_json_is_all_there_is_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "recipes" / "encoder_only.yaml")
    assert _run(["plan", "--json", recipe]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "encoder_only"
    file = tmp_path / "plan.json"
    assert _run(["plan", recipe, "--json", str(file)]) == 0
    assert "Weights by part" in capsys.readouterr().out
    assert json.loads(file.read_text(encoding="utf-8"))["recipe"] == "encoder_only"
    assert _run(["passes", "gptq", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gptq"]["schema"]["properties"]["bits"]["default"] == 4


def test_settings_have_bounds_and_those_within_them_follow() -> None:
    model = next(model for model in PASSES if model.__name__ == "Distill")
    schema = model.model_json_schema()
    found = {name: (type_, default) for name, type_, default, _ in settings(schema, schema["$defs"])}
    assert found["learning_rate"] == ("number > 0", "default 0.0003")
    assert found["valid_share"] == ("number > 0, < 1", "default 0.1")
    assert found["losses.speech"] == ("number >= 0", "default 1.0")
    schema = next(model for model in PASSES if model.__name__ == "Gptq").model_json_schema()
    names = [name for name, *_ in settings(schema, schema["$defs"])]
    assert any(name.startswith("overrides[].") for name in names)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"{VARIABLE}={shell}_complete" in script
    assert "audiolm-compress" in script


def completed(line: str) -> list[str]:
    """What the command answers a shell that asks, as bash does."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "audiolm_compress"],
        env=os.environ | {VARIABLE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_shell_gets_what_it_asks_for() -> None:
    assert completed("audiolm-compress pas") == ["plain,passes"]
    assert completed("audiolm-compress passes quantize_en") == ["plain,quantize_encoder"]
    assert completed("audiolm-compress run recipes/encoder_o") == [
        "dir,recipes/encoder_o",
        "plain,recipes/encoder_only.yaml",
    ]
    assert "plain,--quiet" in completed("audiolm-compress run --q")


def test_passes_are_known_without_importing_them() -> None:
    assert sorted(pass_names()) == sorted(model.model_fields["kind"].default for model in PASSES)


def test_recipes_are_completed_in_folders(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml", "c.json"):
        (tmp_path / name).touch()
    command = cli.commands["run"]
    found = complete_recipes(None, command.params[0], f"{tmp_path}/")  # type: ignore[arg-type]
    assert [item.value for item in found] == [f"{tmp_path}/", f"{tmp_path}/a.yaml", f"{tmp_path}/b.yml"]


def test_help_names_every_command_once_under_a_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in cli.commands:
        assert sum(line.split()[:1] == [name] for line in lines) == 1
    assert {"Compress:", "Measure and compare:", "This installation:"} <= set(lines)


def test_doctor_finds_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "recipes" / "encoder_only.yaml")
    code = _run(["doctor", recipe, "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    findings = [one for group in found.values() if isinstance(group, list) for one in group]
    broken = [one for one in findings if one["essential"] and one["state"] != "ok"]
    assert (code, found["can_run"]) == ((2, False) if broken else (0, True))
    assert all(one["found"] for one in findings)
    assert all(one["cost"] and one["remedy"] for one in findings if one["state"] != "ok")
    assert "encoder_only needs at least" in found["space"][0]["found"]
    assert {one["name"] for one in found["kernels"]} >= {"kernel, 4 bit (gptq)", "kernel, 8 bit (gptq)"}


def test_doctor_on_paper_says_the_same_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    _run(["doctor", "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "ok      torch" in shown
    assert "models can be compressed here" in shown or "something essential is broken" in shown


def test_what_missing_kernels_cost_was_measured() -> None:
    content = json.loads((ROOT / "benchmarks/results/kernels_cpu.json").read_text(encoding="utf-8"))
    points = {(p["layer"], p["rows"]): p for p in content["points"] if p["shape"] == "Gemma-2-2B, up"}
    for (layer, rows, product), ratio in RATIOS.items():
        times = points[layer, rows]["milliseconds"]
        assert ratio == pytest.approx(times[product] / times["16-bit Linear"], rel=0.03), (layer, product)
