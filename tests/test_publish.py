"""Uploading names what goes, keeps the audio back, and asks whose licence holds; what is sent arrives."""

from __future__ import annotations

import re
import shutil
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard
from safetensors import safe_open

from audiolm_compress.cli import _run, cli
from audiolm_compress.errors import AudioLMError, BaselineError
from audiolm_compress.publish import prepare_upload
from audiolm_compress.salmonn import hub, store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

from .hub import CUT_OFF, READING, WRITING, Hub, serving, use

# The client sends files in a way that its own library for HTTP would see changed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CARD = "---\nlibrary_name: audiolm-compress\nmodel-index: []\n---\n\n# A model\n\nText.\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[[str], Salmonn]) -> Path:
    saved = store.save(small_model("llama"), tmp_path_factory.mktemp("model") / "saved")
    (saved / "README.md").write_text(CARD)
    (saved / "report.html").write_text("<audio>")
    return saved


@pytest.fixture
def folder(tmp_path: Path, saved: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "saved"))


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


@pytest.mark.parametrize("name", ["notes.txt", "llm/notes.txt"])
def test_links_that_lead_out_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("of this machine")
    (folder / "llm").mkdir()
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(AudioLMError, match=f"a symbolic link leads out of the folder: {name} -> "):
        prepare_upload(folder, "owner/name", licence="gemma")


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


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub on this machine, and a token that may write there."""
    with serving() as hub:
        use(hub, monkeypatch, WRITING)
        yield hub


def pushed(folder: Path, *options: str) -> Result:
    """The command, as it would be given."""
    arguments = ["push", str(folder), "owner/name", "--license", "gemma", *options]
    return CliRunner().invoke(cli, arguments)


def refused(folder: Path, *options: str) -> str:
    """The one line that a push ends with."""
    done = pushed(folder, *options)
    assert isinstance(done.exception, AudioLMError), done.exception  # of which `main` makes exit code 2
    told = str(done.exception)
    assert "\n" not in told
    everything = done.output + "".join(traceback.format_exception(done.exception))
    assert WRITING not in everything and READING not in everything
    return told


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("xet", [False, True])
def test_what_arrives_is_the_folder(
    folder: Path, writing: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xet: bool
) -> None:
    """By LFS; and by the client's other way (xet), where its own storage is not needed for small files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", not xet)
    writing.lfs_from = 10**9 if xet else writing.lfs_from
    (folder / "more").mkdir()
    (folder / "more" / "notes[1].txt").write_text("in a folder")
    (folder / ".hidden").write_text("stays here")
    done = pushed(folder, "--base-model", "google/gemma-2-2b-it")
    assert done.exception is None, done.output
    repository = writing.repositories["models/owner/name"]
    sent = contents(folder)
    del sent["report.html"], sent[".hidden"]
    assert repository.private
    assert repository.branches == {"main": sent}
    assert bool(writing.objects) is not xet
    card = ModelCard(repository.branches["main"]["README.md"].decode())
    assert (card.data.license, card.data.base_model) == ("gemma", ["google/gemma-2-2b-it"])
    assert card.data.library_name == "audiolm-compress"
    assert f"Uploaded to {writing.url}/owner/name/commit/" in done.stdout
    assert WRITING not in done.output

    before = len(writing.asked)
    assert pushed(folder, "--with-audio").exception is None
    assert repository.branches["main"] == sent | {"report.html": b"<audio>"}
    assert all(method != "PUT" for method, *_ in writing.asked[before:]), "what is there is not sent again"

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert load_model("owner/name").weight_bytes() == load_model(folder).weight_bytes()


def test_a_branch_is_made_and_public_is_asked_for(folder: Path, writing: Hub) -> None:
    assert pushed(folder, "--public", "--revision", "v1.0").exception is None
    repository = writing.repositories["models/owner/name"]
    assert not repository.private
    assert repository.branches["main"] == {}
    assert repository.branches["v1.0"]["config.json"] == (folder / "config.json").read_bytes()
    assert pushed(folder, "--public", "--revision", "v1.0").exception is None  # nothing has changed
    assert "is there, and public; give --public" in refused(folder)


def test_who_may_not_is_told_why(folder: Path, writing: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for token, told in {
        None: "401 .*does not know you: `hf auth login`",
        "hf_unknown": "401 .*does not know you: `hf auth login`",
        READING: "403 .*the rights to create.*your token may not write there",
        f"{WRITING}\t{WRITING}": "has characters that none has",
        f"{WRITING}\u00e9": "has characters that none has",
    }.items():
        use(writing, monkeypatch, token)
        assert re.search(told, refused(folder)), token
    assert writing.repositories == {}

    use(writing, monkeypatch, WRITING)
    writing.server_says = f" (you are {WRITING})"
    writing.faults["POST", "/api/repos/create"] = [403]
    assert "(you are ***)" in refused(folder)


def test_an_answer_that_is_no_yes_is_an_error(folder: Path, writing: Hub) -> None:
    model = "/api/models/owner/name"
    faults = {
        ("POST", "/api/repos/create", 402): "402.*see what it says",
        ("POST", f"{model}/branch/", 404): "404.*owner, name and branch are right",
        ("POST", f"{model}/preupload/", 404): "404.*owner, name and branch are right",
        ("POST", "/owner/name.git/", 413): "413.*see what it says",
        ("PUT", "/lfs/", 403): "403.*may not write there",
        ("POST", f"{model}/commit/", 500): "500.*can be reached; the same command",
    }
    for (method, path, status), told in faults.items():
        writing.faults[method, path] = [status] * 20
        assert re.search(told, refused(folder, "--revision", "v1")), path
        writing.faults.clear()
        assert not any(files for one in writing.repositories.values() for files in one.branches.values()), (
            "the commit comes last"
        )


def test_what_the_repository_leaves_out_is_named(folder: Path, writing: Hub) -> None:
    assert pushed(folder).exception is None
    writing.repositories["models/owner/name"].ignored = r".*\.safetensors"
    writing.repositories["models/owner/name"].branches["main"].clear()
    assert re.search(r"not in the commit .*: model\.safetensors; see .* \.gitignore", refused(folder))


def test_a_connection_that_breaks_is_taken_up_again(folder: Path, writing: Hub) -> None:
    writing.faults["PUT", "/lfs/"] = [CUT_OFF, 503]
    writing.faults["POST", "/api/models/owner/name/preupload"] = [CUT_OFF]
    assert pushed(folder).exception is None
    sent = contents(folder)
    del sent["report.html"]
    assert writing.repositories["models/owner/name"].branches["main"] == sent


@pytest.mark.parametrize("xet", [False, True])
def test_a_connection_that_stays_broken_is_an_error(
    folder: Path, writing: Hub, monkeypatch: pytest.MonkeyPatch, xet: bool
) -> None:
    writing.faults["PUT", "/lfs/"] = [CUT_OFF] * 20
    writing.faults["GET", "/api/models/owner/name/xet-write-token"] = [403] * 20
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", not xet)
    assert re.search("hub gave: .*; ", refused(folder))
    assert writing.repositories["models/owner/name"].branches["main"] == {}

    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        assert re.search(f"refused; see whether {url} can be reached; the same command", refused(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(folder)


def test_an_interruption_says_how_to_go_on(
    folder: Path, writing: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub._commit_api.lfs_upload", interrupted)
    assert _run(["push", str(folder), "owner/name", "--license", "gemma"]) == 130
    told = "interrupted; the upload to owner/name is not finished; the same command sends what is not there"
    assert told in capfd.readouterr().err


def test_a_download_that_fails_is_told(
    folder: Path, writing: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BaselineError, match=r"the hub gave: .*Not Found"):
        load_model("owner/name")
    assert pushed(folder).exception is None
    with pytest.raises(BaselineError, match=r"the hub gave: .*Revision Not Found"):
        load_model("owner/name@v2")
    writing.faults["GET", "/owner/name/resolve"] = [CUT_OFF] * 200
    with pytest.raises(BaselineError, match="the hub gave: "):
        load_model("owner/name")
    use(writing, monkeypatch, "hf_unknown")
    with pytest.raises(BaselineError, match=r"the hub gave: .*401"):
        load_model("owner/name")
