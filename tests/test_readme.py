"""The README tells the truth: its figures come from files, its links lead somewhere, its code runs."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile
import yaml
from click.testing import CliRunner

from audiolm_compress.cli import cli
from audiolm_compress.cli.plan import plan
from audiolm_compress.cli.run import run
from audiolm_compress.data.audio import load_audio
from audiolm_compress.recipe import load_recipe
from audiolm_compress.salmonn.load import TINY, load_model

from .planning.test_full_size import GEMMA_2_2B, checkpoint

ROOT = Path(__file__).parent.parent
AT_REAL_SIZE = {
    "full_size_gemma-2-2b.json": ["gemma2_4bit"],
    "full_size_llama-3.2-3b.json": ["llama3_4bit"],
}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = "README.md") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[list[str]]:
    """Arguments of every `audiolm-compress` command, one list a command."""
    lines = [part for block in blocks("sh") for line in block.splitlines() for part in line.split("&&")]
    return [shlex.split(line)[1:] for line in map(str.strip, lines) if line.startswith("audiolm-compress")]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the README's commands name."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(TINY, tmp_path / "out" / "mine", ignore=shutil.ignore_patterns("data"))
    clip = next((TINY / "data").rglob("*.flac"), None) or next((TINY / "data").rglob("*.ogg"))
    samples = load_audio(clip).waveform.numpy()
    for name in ("speech.wav", "street.flac", "meeting.ogg"):
        soundfile.write(tmp_path / name, samples, 16000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def header(recipe: str) -> str:
    """The first comment of a recipe in one line."""
    text = (ROOT / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    words = [word for line in text.splitlines() if line.startswith("#") for word in line[1:].split()]
    return " ".join(words)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What puts the figures there."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("readme")


def test_figures_come_from_result_files(script: ModuleType) -> None:
    kinds = set()
    for page in script.PAGES:
        text = page.read_text(encoding="utf-8")
        assert script.filled(text) == text, f"{page}: run python benchmarks/readme.py"
        kinds |= {match["kind"] for match in script.BLOCK.finditer(text)}
    assert kinds == {"report", "compare", "recipes", *script.TABLES}


def test_headers_of_recipes_say_what_was_measured(script: ModuleType) -> None:
    measured = script.measured()
    names = {file.stem for file in (ROOT / "recipes").glob("*.yaml")}
    assert measured.keys() == {name for name in names if not name.startswith("search_")}
    for name, entry in measured.items():
        assert script.expectation(entry) in header(name), name
    for file, names in AT_REAL_SIZE.items():
        for name in names:
            assert script.expectation_at_real_size(file, name) in header(name), name


def test_every_pass_is_listed() -> None:
    from audiolm_compress.passes import PASSES

    listed = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert listed == [pass_class.model_fields["kind"].default for pass_class in PASSES]


@pytest.mark.parametrize("text", [README, run.epilog or "", plan.epilog or ""], ids=["readme", "run", "plan"])
def test_changes_to_the_recipe_are_accepted(text: str) -> None:
    """Examples of ``--set`` name entries that recipes/gemma2_4bit.yaml has, and values that they take."""
    changes = [change for change in re.findall(r"--set ([\w.]+=\w+)(?![\w.])", text) if "passes" in change]
    assert changes
    load_recipe(ROOT / "recipes" / "gemma2_4bit.yaml", changes)


@pytest.mark.parametrize("name", ["transcribe", "caption", "ask"])
def test_questions_are_answered(workplace: Path, name: str) -> None:
    (arguments,) = [arguments for arguments in commands() if arguments[0] == name]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    # `tiny` was trained on two tasks: it may find nothing to say to a free question.
    assert done.output.strip() or name == "ask"


def facts(output: str) -> list[str]:
    """Lines of a plan's tables and its notes, without what is measured on the machine that makes it."""
    tables, *notes = re.split(r"^- ", output, flags=re.MULTILINE)
    told = [line.rstrip() for line in tables.splitlines() if "this cpu" not in line]
    told += [" ".join(note.split()) for note in notes if not note.startswith(("disk:", "time of a run"))]
    return [line for line in told if line]


@pytest.mark.slow
def test_the_plan_shown_is_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = checkpoint(tmp_path, GEMMA_2_2B, 128).read_text(encoding="utf-8")
    config = config.replace("BEATs_iter3_plus_AS2M.pt", "beats.pt")
    (tmp_path / "salmonn.yaml").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    [shown] = [
        block for block in blocks("text", "docs/runs.md") if block.startswith("gemma2_4bit on salmonn.yaml")
    ]
    arguments = ["plan", str(ROOT / "recipes" / "gemma2_4bit.yaml"), "--baseline", "salmonn.yaml"]
    done = CliRunner().invoke(cli, arguments, env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    # the tables' spaces depend on the widest figure, which may be the machine's own
    assert [line.split() for line in facts(done.output)] == [line.split() for line in facts(shown)]


@pytest.mark.slow
def test_training_config_trains(parity: Path, tmp_path: Path) -> None:
    """As it is, but for other models and a shorter training."""
    folder = shutil.copytree(parity / "llama", tmp_path / "llama")
    (config,) = blocks("yaml", "docs/training.md")
    (folder / "stage1.yaml").write_text(config, encoding="utf-8")
    for name in ("train.json", "valid.json"):
        shutil.copy(folder / "ann.json", folder / name)
    changes = ["model.llama_path=llm", "model.whisper_path=whisper", "model.ckpt=salmonn.pth"]
    changes += ["run.iters_per_epoch=1", "run.optims.max_epoch=1", f"run.output_dir={tmp_path / 'out'}"]
    arguments = [part for change in changes for part in ("--set", change)]
    done = CliRunner().invoke(cli, ["train", str(folder / "stage1.yaml"), "--device", "cpu", *arguments])
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "out" / "model").max_text_tokens == 300


SHORTER: dict[str, dict[str, Any]] = {
    "unpad_audio": {"loss_clips": 4},
    "vocab_trim": {"check_clips": 4},
    "distill": {"steps": 2},
}


def shorten(recipe: Path) -> None:
    """The same passes with fewer clips, less training and less measuring."""
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["data"] |= {"calibration_clips": 32, "training_clips": 8}
    content["benchmark"] = {
        "max_clips": 8,
        "latency": {"clips": 1, "warmup": 0},
        "noise_protocol": {"warmup": 0, "iterations": 1},
    }
    for entry in content["passes"]:
        entry |= SHORTER.get(entry["pass"], {})
    recipe.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.campaign)])
def test_python_block_runs(workplace: Path, capsys: pytest.CaptureFixture[str], whole: bool) -> None:
    """The main job as a user's script would do it; whole, with the recipe as it is."""
    if not whole:
        shorten(workplace / "recipes" / "gemma2_4bit.yaml")
    waveform = load_audio(workplace / "speech.wav").waveform
    exec(compile(blocks("python")[0], "README.md", "exec"), {"waveform": waveform})
    assert "candidate" in capsys.readouterr().out
    assert (workplace / "out" / "gemma2_4bit" / "report.json").is_file()
