"""The command line: what it teaches, what it answers, and how it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audiolm_compress import __version__
from audiolm_compress.cli import _run, cli
from audiolm_compress.passes import PASSES
from audiolm_compress.report import Benchmark

RECIPE = "passes: [{pass: merge_lora}]\n"


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says that must fail for its input: one message, no traceback, exit code 2."""
    assert _run(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_help_of_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([command, "--help"]) == 0
    assert f"audiolm-compress {command} " in capsys.readouterr().out.split("Example", 1)[1]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "\n    audiolm-compress run recipes/gemma2_4bit.yaml\n" in shown  # a line of its own
    assert all(name in shown for name in cli.commands)
    assert _run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert _run([]) == 0
    assert "Usage:" in capsys.readouterr().out


def test_passes_are_described_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["passes"]) == 0
    shown = capsys.readouterr().out
    for model in PASSES:
        assert f"\n{model.model_fields['kind'].default}: " in "\n" + shown
        for name, field in model.model_fields.items():
            assert name == "kind" or f"  {name} (" in shown
            assert name == "kind" or field.description, f"{model.__name__}.{name} has no description"
    assert _run(["passes", "gptq"]) == 0
    assert "  bits (2 | 3 | 4 | 8 | auto; default 4)" in capsys.readouterr().out
    assert "unknown pass 'gtpq'" in failure(capsys, "passes", "gtpq")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("passes: [{pass: merge_lore}]", "did you mean 'merge_lora'?"),
        ("passes: [{pass: gptq, bit: 4}]", "did you mean 'bits'?"),
        ("passes: [{pass: gptq, bits: four}]", "expected 2, 3, 4, 8 or 'auto'"),
        ("passes: []", "passes: is empty"),
        (RECIPE + "goals: {weight_ratio: half}", "goals.weight_ratio: found 'half'; expected a number"),
        (RECIPE + "data: {test: gone.json}", "no such file"),
    ],
)
def test_a_wrong_recipe_is_one_message(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    message = failure(capsys, "run", str(file))
    assert message.startswith(f"error: {file}: 1 error\n")
    assert expected in message


def test_other_wrong_input_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    assert "cannot read the recipe" in failure(capsys, "run", str(tmp_path / "gone.yaml"))
    assert "expected KEY.PATH=VALUE" in failure(capsys, "run", str(file), "--set", "seed")
    assert "device 'abacus' cannot be used" in failure(capsys, "run", str(file), "--device", "abacus")
    assert "gone.wav: missing" in failure(capsys, "transcribe", str(tmp_path / "gone.wav"))
    assert "no such file" in failure(capsys, "bench", "tiny", "--data", str(tmp_path / "gone.json"))
    assert "Missing argument" in failure(capsys, "transcribe")


@pytest.mark.parametrize("command", ["run", "plan", "search"])
def test_a_config_for_another_command_names_that_command(
    command: str, parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parity / "gemma" / "config.yaml"
    assert f"`audiolm-compress train {config}`" in failure(capsys, command, str(config))
    decoding = tmp_path / "decode.yaml"
    decoding.write_text("model: {}\n", encoding="utf-8")
    assert failure(capsys, command, str(decoding)).endswith(f"--baseline {decoding}\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    assert f"`audiolm-compress run {recipe}`" in failure(capsys, "train", str(recipe))


def test_a_misspelt_command_or_recipe_is_answered_by_a_near_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = failure(capsys, "transscribe")
    assert "No such command 'transscribe'; did you mean 'transcribe'? (commands: run, plan," in told
    told = failure(capsys, "chat")
    assert "No such command 'chat' (commands: run, plan," in told
    (tmp_path / "gemma2_4bit.yaml").write_text(RECIPE, encoding="utf-8")
    for wrong in ("gemma_4bit.yaml", "gemma2_4bit"):
        assert "; did you mean 'gemma2_4bit.yaml'?" in failure(capsys, "run", str(tmp_path / wrong))
    assert "did you mean" not in failure(capsys, "run", str(tmp_path / "nothing.yaml"))
    assert "did you mean" not in failure(capsys, "run", str(tmp_path / "gone" / "gemma2_4bit.yaml"))


def test_debug_shows_where_an_error_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--debug", "run", str(tmp_path / "gone.yaml")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_answers_about_files(parity: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [str(parity / "gemma" / "audio" / f"clip{index}.wav") for index in (0, 1)]
    options = ["--model", str(parity / "gemma" / "config.yaml"), "--device", "cpu"]
    assert _run(["transcribe", *clips, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines if "\t" in line] == clips
    assert _run(["caption", clips[1], *options]) == 0
    caption = capsys.readouterr().out
    assert caption.strip() and clips[1] not in caption
    assert _run(["ask", clips[1], "--prompt", "Is it music?", *options]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_bench_measures_a_model_as_often_as_it_is_named(
    parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation, found = tmp_path / "clips.json", tmp_path / "found.json"
    annotation.write_text(
        '{"annotation": [{"path": "clip1.wav", "text": "a", "task": "asr", "testset_id": "1"}]}',
        encoding="utf-8",
    )
    model = str(parity / "gemma" / "config.yaml")
    options = ["--data", str(annotation), "--prefix", str(parity / "gemma" / "audio"), "--device", "cpu"]
    options += ["--clips", "1", "--runs", "2", "--batch-size", "1", "--max-clips", "1", "--seed", "3"]
    out = tmp_path / "out"
    assert _run(["bench", model, model, *options, "--json", str(found), "--out", str(out)]) == 0
    assert "Scores against" in capsys.readouterr().out
    read = Benchmark.from_json(found.read_text(encoding="utf-8"))
    name = Path(model).name
    assert read.names == (name, f"{name} (2)")
    assert read.baseline.weight_bytes == read.sides[1].weight_bytes > 0
    assert all(side.ttft_s > 0 and "wer" in side.scores for side in read.sides)
    assert read.differences[0]["wer"].p_value == 1.0 and read.environment["seed"] == 3
    assert all(side.noise_latency.ttft.runs == 2 for side in read.sides)
    assert (out / "bench.json").read_bytes() == found.read_bytes()
    assert {"bench.md", "model1_asr.csv", "model2_scores.csv"} <= {file.name for file in out.iterdir()}

    assert _run(["bench", model, *options, "--json", "-"]) == 0
    assert Benchmark.from_json(capsys.readouterr().out).differences == ()


def test_interrupting_says_what_is_kept_and_leaves_nothing_else(parity: Path, tmp_path: Path) -> None:
    audio = parity / "gemma" / "audio"
    annotation = tmp_path / "clips.json"
    annotation.write_text(
        '{"annotation": [{"path": "clip1.wav", "text": "a", "task": "asr", "testset_id": "1"}]}',
        encoding="utf-8",
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"baseline: {parity / 'gemma' / 'config.yaml'}\n"
        f"data: {{calibration: clips.json, test: clips.json, prefix: {audio}}}\n" + RECIPE,
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "audiolm_compress", "run", str(recipe), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
        # Where the tests run in the background of a shell, children would inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    heard = ""
    while "baseline: loading the model" not in heard:
        line = process.stderr.readline()
        assert line, heard
        heard += line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
    assert process.returncode == 130
    kept = tmp_path.resolve() / ".out.stages"
    told = f"interrupted; the model after pass 1, kept in {kept}: the same command goes on from there"
    assert rest.strip().splitlines()[-1] == told
    assert "Traceback" not in rest
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.stages", "clips.json", "recipe.yaml"]
