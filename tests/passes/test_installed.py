"""Passes of installed packages can be named like ours, run nothing unless named, and cannot replace ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from audiolm_compress.cli import cli
from audiolm_compress.errors import RecipeError
from audiolm_compress.passes import MergeLora
from audiolm_compress.passes.installed import GROUP
from audiolm_compress.recipe import load_recipe

QUIET = '''
from typing import Literal
from pydantic import Field
from audiolm_compress.passes.base import Context, Pass, PassReport

class Quiet(Pass):
    """Changes nothing."""

    kind: Literal["quiet"] = Field("quiet", alias="pass")
    decibels: float = Field(3.0, description="how quiet")

    def apply(self, model, context):
        return PassReport(changed=False, summary="hush")
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package on the path as an installer would: its module and its metadata."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(package: str, entry: str, source: str) -> None:
        (tmp_path / f"{package}.py").write_text(source, encoding="utf-8")
        metadata = tmp_path / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{entry}\n")

    before = set(sys.modules)
    yield put
    for name in ("one_pass", "other_pass"):
        if name not in before:
            sys.modules.pop(name, None)


def test_a_recipe_names_it_like_ours(install: Install) -> None:
    install("one_pass", "quiet = one_pass:Quiet", QUIET)
    load_recipe({"passes": [{"pass": "merge_lora"}]})
    assert "one_pass" not in sys.modules, "nothing is loaded that no recipe names"
    recipe = load_recipe({"passes": [{"pass": "quiet", "decibels": 6}, {"pass": "merge_lora"}]})
    assert recipe.passes[0].model_dump(by_alias=True) == {"pass": "quiet", "decibels": 6.0}
    changed = load_recipe(recipe, ["passes.0.decibels=9"])
    assert changed.passes[0].model_dump(by_alias=True)["decibels"] == 9
    with pytest.raises(RecipeError, match="did you mean 'decibels'"):
        load_recipe({"passes": [{"pass": "quiet", "decibel": 6}]})
    listed = CliRunner().invoke(cli, ["passes", "quiet", "--json"])
    assert json.loads(listed.output)["quiet"]["summary"] == "Changes nothing."


def test_ours_cannot_be_replaced(install: Install) -> None:
    install("one_pass", "merge_lora = one_pass:Quiet", "raise SystemExit('loaded')")
    assert load_recipe({"passes": [{"pass": "merge_lora"}]}).passes == (MergeLora(),)
    assert CliRunner().invoke(cli, ["passes", "merge_lora"]).exit_code == 0


@pytest.mark.parametrize(
    ("entry", "source", "message"),
    [
        ("quiet = one_pass:Quiet", "1 / 0", r"package one_pass: one_pass:Quiet cannot be loaded \(ZeroDiv"),
        ("quiet = one_pass:Missing", QUIET, r"cannot be loaded \(AttributeError"),
        ("quiet = one_pass:Field", QUIET, "no subclass of"),
        ("silent = one_pass:Quiet", QUIET, "the `kind` of one_pass:Quiet is 'quiet'; give both the same"),
    ],
)
def test_what_is_wrong_with_a_package_is_said(
    install: Install, entry: str, source: str, message: str
) -> None:
    install("one_pass", entry, source)
    with pytest.raises(RecipeError, match=message):
        load_recipe({"passes": [{"pass": entry.split()[0]}]})


def test_two_packages_of_one_name_are_refused(install: Install) -> None:
    for package in ("one_pass", "other_pass"):
        install(package, f"quiet = {package}:Quiet", QUIET)
    with pytest.raises(RecipeError, match="announced by several packages: one_pass, other_pass; uninstall"):
        load_recipe({"passes": [{"pass": "quiet"}]})
