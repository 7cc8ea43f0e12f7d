"""docs/architecture.md speaks of what there is: names, layers, files and numbers are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path

import audiolm_compress
from audiolm_compress.cli import DONE, INTERRUPTED, SECTIONS, USER_ERROR
from audiolm_compress.cli.run import GOALS_MISSED
from audiolm_compress.report.report import SCHEMA, Report
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn

from .documents import ROOT, named_paths
from .test_imports import LAYERS

PACKAGE = Path(audiolm_compress.__file__).parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# Words of Python, YAML and other programs.
ELSEWHERE = {"import audiolm_compress", "accelerate launch", "changed=False", "--help"}


def section(title: str) -> str:
    return re.split(r"^#+ ", TEXT.split(f"# {title}\n")[1], flags=re.MULTILINE)[0]


@cache
def defined() -> set[str]:
    """Every name that the package defines: modules, classes, functions, arguments, fields, constants."""
    names = {path.stem for path in PACKAGE.rglob("*.py")} | {
        path.parent.name for path in PACKAGE.rglob("*.py")
    }
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
    return names


def test_names_exist() -> None:
    known = defined() | {str(command.name) for commands in SECTIONS.values() for command in commands}
    sources = "".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py"))
    words = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)))
    unknown = []
    for word in words - ELSEWHERE - set(named_paths(TEXT)):
        names = re.findall(r"\w+", word.removesuffix(")"))
        if not set(names) <= known and word not in sources:
            unknown.append(word)
    assert unknown == []


def test_the_diagrams_name_what_exists() -> None:
    diagrams = "".join(re.findall(r"```(?:mermaid|text)\n(.*?)```", TEXT, re.DOTALL))
    words = set(re.findall(r"\b\w+_\w+\b", diagrams)) | set(re.findall(r"\b[A-Z][a-z]+(?=\]|:)", diagrams))
    assert words - defined() == set()


def test_layers_are_those_of_the_test() -> None:
    rows = re.findall(r"^\| (`.+?) \| ", section("Packages"), re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == [set(layer) for layer in LAYERS[:-1]]


def test_the_folder_has_these_files(small_model: Callable[[str], Salmonn], tmp_path: Path) -> None:
    rows = re.findall(r"^\| (`.+?) \| ", section("Model folder"), re.MULTILINE)
    listed = {name for row in rows[:-1] for name in re.findall(r"`([\w.]+)`", row)}
    saved = {file.name for file in store.save(small_model("llama"), tmp_path / "model").iterdir()}
    assert saved - listed <= {"chat_template.jinja", "special_tokens_map.json", "tokenizer.model"}
    assert listed <= saved
    assert f"`{store.FORMAT}`" in section("Model folder")


def test_the_report_and_the_exit_codes_are_these() -> None:
    report = section("Report")
    assert f"`schema` is {SCHEMA}." in report
    assert [field.name for field in fields(Report) if f"`{field.name}`" not in report] == []
    codes = tuple(map(int, re.findall(r"\b\d+\b", section("Errors"))))
    assert (DONE, *codes) == (0, USER_ERROR, GOALS_MISSED, INTERRUPTED)
