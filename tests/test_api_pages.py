"""API pages are made of the docstrings without a warning, every public name among them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import audiolm_compress

from .documents import blocks, commands


@pytest.mark.slow
def test_pages_are_made(tmp_path: Path) -> None:
    """Of the modules that CONTRIBUTING.md names."""
    pdoc = pytest.importorskip("pdoc")
    shell = [words for block in blocks("sh", page="CONTRIBUTING.md") for words in commands(block)]
    [words] = [words for words in shell if words[0] == "pdoc"]
    modules = [word for word in words if word.startswith("audiolm_compress")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*modules, output_directory=tmp_path)
    front = (tmp_path / "audiolm_compress.html").read_text(encoding="utf-8")
    assert [name for name in audiolm_compress.__all__ if f'id="{name}"' not in front] == []
    for module in modules:
        assert (tmp_path / module.replace(".", "/")).with_suffix(".html").is_file(), module
