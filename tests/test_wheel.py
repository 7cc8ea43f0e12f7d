"""The wheel has what a run needs and no more: `tiny`, licences, `py.typed`, no tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "audiolm_compress/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--wheel-dir", str(out), str(ROOT)], check=True)
    [file] = out.iterdir()
    return zipfile.ZipFile(file)


def committed(*folders: str) -> set[str]:
    """Files in git, as caches and leftovers of editors are in no wheel."""
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_package_is_there_whole(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert committed(PACKAGE) - names == set()
    assert {f"{PACKAGE}py.typed", f"{PACKAGE}salmonn/tiny/model.safetensors"} <= names
    for name in sorted(committed(f"{PACKAGE}salmonn/tiny")):
        assert wheel.read(name) == (ROOT / name).read_bytes(), name


def test_nothing_else_is(wheel: zipfile.ZipFile) -> None:
    [metadata] = {name.split("/")[0] for name in wheel.namelist() if not name.startswith(PACKAGE)}
    assert metadata.endswith(".dist-info")
    own = {name.removeprefix(f"{metadata}/") for name in wheel.namelist() if name.startswith(metadata)}
    licences = {"licenses/LICENSE", "licenses/NOTICE"}
    assert own == {"METADATA", "RECORD", "WHEEL", "entry_points.txt"} | licences
    for name in licences:
        assert wheel.read(f"{metadata}/{name}") == (ROOT / Path(name).name).read_bytes()
    assert b"audiolm-compress = audiolm_compress.cli:main" in wheel.read(f"{metadata}/entry_points.txt")
