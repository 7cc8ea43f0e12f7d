"""The pages tell the truth: commands are understood, code runs, links and paths lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml

from audiolm_compress.cli import cli
from audiolm_compress.recipe import load_recipe
from audiolm_compress.salmonn.load import TINY
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.training.stage_config import stage_config

from .documents import (
    ROOT,
    Block,
    assert_printed,
    blocks,
    commands,
    named_paths,
    own_arguments,
    pages,
    parsed,
)

LANGUAGES = {"", "sh", "text", "python", "yaml", "toml", "json", "mermaid"}
SHELL = [(block, words) for block in blocks("sh") for words in commands(block)]
# Tools whose own words are not looked at.
TOOLS = {".ci/run", "apt-get", "dpkg", "mypy", "pdoc", "ruff", "sudo"}
# Downloaded by whoever runs these commands.
CORPORA = ("LibriSpeech", "gigaspeech")
FILES = [block for block in blocks("yaml", "json", "toml") if not (block.reason or block.name)]
# test_readme.py makes the run of the README's first block.
PYTHON = [block for block in blocks("python") if not (block.reason or block.name)]
PYTHON.remove(blocks("python", page="README.md")[0])
# The package that CONTRIBUTING.md makes has a test of its own.
CONSOLE = [
    block for block in blocks("text") if block.text.startswith("$ ") and block.page.stem != "CONTRIBUTING"
]


def labelled(pair: tuple[Block, list[str]]) -> str:
    return f"{pair[0]} {' '.join(pair[1])[:40]}"


def test_every_block_has_a_language_and_is_closed() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        found = blocks(*LANGUAGES, page=str(page.relative_to(ROOT)))
        assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), page
        assert not [str(block) for block in found if not block.language], "say what language it is"


def test_what_is_not_run_says_why() -> None:
    for page in pages():
        marks = page.read_text(encoding="utf-8").count("\n<!-- not run")
        reasons = [block.reason for block in blocks(*LANGUAGES, page=str(page.relative_to(ROOT)))]
        assert marks == sum(len(reason) > 5 for reason in reasons), page


@pytest.mark.parametrize("pair", SHELL, ids=labelled)
def test_commands_are_understood(
    pair: tuple[Block, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To the last option and value, by the code that would run them."""
    block, words = pair
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # as --threads sets them
    for path in ROOT.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for folder in CORPORA:
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    own = own_arguments(words)
    if own is not None:
        context = parsed(cli, own)
        assert context.command.callback is not None
        recipe = context.params.get("recipe")
        if recipe and (ROOT / recipe).is_file() and context.info_name in ("run", "plan"):
            changes = [one for one in context.params["overrides"] if not one.startswith("data.")]
            load_recipe(ROOT / recipe, changes)
    elif words[0] == "pip":
        understood_install(block, words)
    elif words[0] in ("python", "pytest"):
        understood_script(block, words)
    else:
        assert words[0] in TOOLS, f"{block}: nothing checks `{words[0]}`"


def understood_install(block: Block, words: list[str]) -> None:
    """The constraints are there, and the extras that are asked for."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^([\w-]+) = \[$", project.split("[project.optional-dependencies]")[1], re.MULTILINE)
    asked = [
        name for word in words for names in re.findall(r"^\.\[(.+)\]$", word) for name in names.split(",")
    ]
    assert not set(asked) - set(extras), block
    if "-c" in words:
        assert (ROOT / words[words.index("-c") + 1]).is_file(), block


def understood_script(block: Block, words: list[str]) -> None:
    """The script is in the repository, or in the page, and knows the options by name."""
    files = [word for word in words[1:] if word.startswith(("tests/", "examples/", "benchmarks/"))][:1]
    for file in files:
        assert (ROOT / file).exists(), block
        if words[0] == "python":
            sources = [ROOT / file, *(ROOT / file).parent.glob("*/*.py")]
            known = "".join(source.read_text(encoding="utf-8") for source in sources)
            assert not [word for word in words if word.startswith("--") and f'"{word}"' not in known], block


@pytest.mark.parametrize("block", FILES, ids=str)
def test_files_shown_are_valid(block: Block) -> None:
    """Recipes and training configs by the code that reads them."""
    content = json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)
    if "passes" in content:
        load_recipe(content)
    elif "model" in content and "run" in content:
        stage_config(content, block.page)
    else:
        pytest.fail(f"{block}: neither a recipe nor a training config; check it here")


@pytest.fixture
def given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_model: Callable[..., Salmonn]
) -> dict[str, Any]:
    """Names and files that python blocks take as there."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(TINY, tmp_path / "out" / "gemma2_4bit", ignore=shutil.ignore_patterns("data"))
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    return {
        "llm": small_model().llm.get_base_model(),
        "token_batches": [torch.randint(5, 300, (4, 64), generator=generator) for _ in range(4)],
        "waveform": 0.05 * torch.randn(32000, generator=generator),
    }


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_runs(block: Block, given: dict[str, Any]) -> None:
    exec(compile(block.text, str(block), "exec"), given)


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_what_commands_print_is_shown(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert_printed(block)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [
        path for path in named_paths(text) if not (page.parent / path).exists() and not (ROOT / path).exists()
    ]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Where links into a page may lead: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_lead_to_headings(page: Path) -> None:
    links = re.findall(r"\]\(([\w./-]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    assert not [
        (file, anchor)
        for file, anchor in links
        if anchor not in anchors((page.parent / file).resolve() if file else page)
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "fly",
        "run",
        "run a.yaml --fast",
        "bench tiny --max-clips none",
        "completion ksh",
        "export tiny --to gguf2 --out x",
    ],
)
def test_a_wrong_command_would_be_noticed(wrong: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(cli, shlex.split(wrong))
