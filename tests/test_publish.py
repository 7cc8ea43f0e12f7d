"""Uploading names what goes, keeps the audio back, and asks whose licence holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard
from safetensors import safe_open

from audiolm_compress.cli import cli
from audiolm_compress.errors import AudioLMError, BaselineError
from audiolm_compress.publish import prepare_upload
from audiolm_compress.salmonn import hub, store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

CARD = "---\nlibrary_name: audiolm-compress\nmodel-index: []\n---\n\n# A model\n\nText.\n"


@pytest.fixture
def folder(tmp_path: Path, small_model: Callable[[str], Salmonn]) -> Path:
    saved = store.save(small_model("llama"), tmp_path / "saved")
    (saved / "README.md").write_text(CARD)
    (saved / "report.html").write_text("<audio>")
    return saved


def test_a_licence_is_asked_for_and_kept(folder: Path) -> None:
    with pytest.raises(AudioLMError, match="names no licence"):
        prepare_upload(folder, "owner/name")
    upload = prepare_upload(folder, "owner/name", licence="gemma", base_models=["google/gemma-2-2b-it"])
    assert prepare_upload(folder, "owner/name") == upload  # the card has it now
    card = ModelCard((folder / "README.md").read_text())
    assert (card.data.license, card.data.base_model) == ("gemma", ["google/gemma-2-2b-it"])
    assert card.data.library_name == "audiolm-compress"
    assert card.text.strip() == "# A model\n\nText."


def test_all_is_listed_and_the_audio_left_out(folder: Path) -> None:
    command = ["push", str(folder), "owner/name", "--license", "gemma", "--dry-run"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    listed = [line.split()[-1] for line in done.stdout.splitlines()[:-1]]
    assert sorted(listed) == sorted({file.name for file in folder.iterdir()} - {"report.html"})
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(listed)
    assert "report.html is left out" in done.stderr
    assert "report.html" in prepare_upload(folder, "owner/name", with_audio=True).files
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("name", ["name", "owner/name@main", "../name"])
def test_only_hub_ids_are_taken(folder: Path, name: str) -> None:
    with pytest.raises(AudioLMError, match="is no hub id"):
        prepare_upload(folder, name, licence="gemma")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioLMError, match="not written by this package"):
        prepare_upload(tmp_path, "owner/name", licence="gemma")


def test_a_repository_is_read_from_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of the hub's cache: blobs, snapshots that link to them, and a file for every reference."""
    cache = tmp_path / "cache"
    repository = cache / "models--owner--name"
    commits = {"main": "a" * 40, "v1.0": "b" * 40}
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    for reference, commit in commits.items():
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "refs" / reference).write_text(commit)
        for file in folder.iterdir():
            shutil.copy(file, repository / "blobs" / file.name)
            (snapshot / file.name).symlink_to(Path("..", "..", "blobs", file.name))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert hub.from_hub("owner/name").name == commits["main"]
    assert hub.from_hub("owner/name@v1.0").name == commits["v1.0"]
    expected = load_model(folder).weight_bytes()
    assert load_model("owner/name").weight_bytes() == expected
    assert load_model("owner/name@v1.0").weight_bytes() == expected
    with pytest.raises(BaselineError, match=r"neither a network nor a copy in the cache .*hf download other"):
        load_model("other/name")
    with pytest.raises(BaselineError, match="--revision v2"):
        load_model("owner/name@v2")
