"""CONTRIBUTING.md is enough to write a pass: its files are installed and run as the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner

from audiolm_compress.cli import cli
from audiolm_compress.data.loading import load_examples
from audiolm_compress.salmonn.load import TINY, load_model

from .documents import ROOT, assert_printed, blocks, commands, own_arguments

PAGE = "CONTRIBUTING.md"
PACKAGE = "audiolm-block-drop"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the package of the page, installed where only this test looks."""
    for block in blocks("toml", "python", "yaml", page=PAGE):
        if block.name:
            file = tmp_path / block.name
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--no-build-isolation", "--target", "site", f"./{PACKAGE}"]  # without network
    subprocess.run(pip, cwd=tmp_path, check=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("block_drop", None)


def test_the_files_are_those_that_the_page_lists(place: Path) -> None:
    [listed] = [block for block in blocks("text", page=PAGE) if block.text.startswith(f"{PACKAGE}/")]
    names = {line.split()[0] for line in listed.text.splitlines()[1:]}
    shown = {Path(block.name).name for block in blocks("toml", "python", "yaml", page=PAGE) if block.name}
    assert names == shown == {file.name for file in (place / PACKAGE).iterdir() if file.is_file()}
    lines = (place / PACKAGE / "block_drop.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 80
    used = [line for line in lines if "audiolm_compress" in line]
    assert used == ["from audiolm_compress.passes.toolkit import ("]


@pytest.mark.slow
def test_a_newcomer_succeeds(place: Path) -> None:
    """Its own tests, then the commands in the page's order, and what the page shows of their output."""
    assert pytest.main(["-q", "-p", "no:cacheprovider", f"--rootdir={PACKAGE}", PACKAGE]) == 0
    [console] = [block for block in blocks("text", page=PAGE) if block.text.startswith("$ ")]
    assert_printed(console)
    [clip] = load_examples(TINY / "data" / "test.json", limit=1).examples
    soundfile.write("speech.wav", clip.waveform, 16000)
    [steps] = [block for block in blocks("sh", page=PAGE) if f"run {PACKAGE}" in block.text]
    outputs = {}
    for arguments in map(own_arguments, commands(steps)):
        assert arguments is not None
        done = CliRunner().invoke(cli, arguments, env={"COLUMNS": "120"})
        assert done.exit_code == 0, done.output
        outputs[arguments[0]] = done.output
    assert list(outputs) == ["plan", "run", "transcribe"]
    [promised] = re.findall(r"of the pass `(.+?)`", (ROOT / PAGE).read_text(encoding="utf-8"))
    assert promised in outputs["run"]
    assert len(load_model("out/block_drop").layers("llm")) == 4
