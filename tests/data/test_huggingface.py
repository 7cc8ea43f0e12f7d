"""Data sets of the library `datasets`: streamed from a folder or a hub, without its decoder or its code."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm_compress.cli import _run
from audiolm_compress.data.audio import load_audio
from audiolm_compress.data.corpora.clip import Clip
from audiolm_compress.data.corpora.huggingface import Columns, offer
from audiolm_compress.data.prepare import prepare
from audiolm_compress.errors import DataError

from ..hub import CUT_OFF, WRITING, Hub, Repository, serving, use

pytest.importorskip("datasets")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def wav(seed: int, rate: int = 22_050) -> bytes:
    made = BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.4, 0.4, rate + 7)
    soundfile.write(made, noise, rate, format="WAV")
    return made.getvalue()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two files of a train split, with the audio inside, as data sets on the hub have it."""
    text = {"dtype": "string", "_type": "Value"}
    features = {
        "audio": {"_type": "Audio"},
        "sentence": text,
        "captions": {"feature": text, "_type": "List"},
        "uid": {"dtype": "int64", "_type": "Value"},
    }
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    for part in range(2):
        seeds = [2 * part, 2 * part + 1]
        columns: dict[str, list[Any]] = {
            "audio": [{"bytes": wav(seed), "path": f"{seed}.wav"} for seed in seeds],
            "sentence": [f"sentence {seed}" for seed in seeds],
            "captions": [[f"caption {seed}", "", "another"] for seed in seeds],
            "uid": seeds,
        }
        if part == 1:
            columns["sentence"][1] = None
            columns["audio"][0] = {"bytes": b"no audio", "path": "2.wav"}
        path = tmp_path / "own" / "data" / f"train-0000{part}-of-00002.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        if part == 0:  # as the library writes files that are not embedded
            (path.parent / "0.wav").write_bytes(wav(0))
            columns["audio"][0] = {"bytes": None, "path": str(path.parent / "0.wav")}
        parquet.write_table(arrow.table(columns).replace_schema_metadata(told), path)
    return tmp_path / "own"


def entries(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["annotation"])


def test_rows_become_clips(own: Path, tmp_path: Path) -> None:
    columns = Columns(text="sentence", identity="uid")
    offered = offer(str(own), "train", "asr", columns=columns)
    done = prepare(offered, tmp_path / "out/own.json", tmp_path / "out/own")
    assert entries(done.annotation) == [
        {
            "path": f"own/{number:08d}.flac",
            "text": f"sentence {number}",
            "task": "asr",
            "source": "own",
            "testset_id": number,
        }
        for number in range(2)
    ]
    assert [line.partition(":")[0] for line in done.reasons] == [
        "1 x no text in column 'sentence'",
        "1 x cannot be decoded as audio",
    ]
    (tmp_path / "1.wav").write_bytes(wav(1))
    before = load_audio(tmp_path / "1.wav").waveform
    after = load_audio(tmp_path / "out/own/00000001.flac").waveform
    assert (after - before).abs().max() <= 0.51 / 2**15
    offered = offer(str(own), "train", "asr", columns=columns)
    assert prepare(offered, tmp_path / "out/own.json", tmp_path / "out/own").kept == 2


def test_a_list_of_texts_and_a_limit(own: Path, tmp_path: Path) -> None:
    columns = Columns(text="captions")
    offered = offer(str(own), "train", "audiocaption", columns=columns, most=1)
    done = prepare(offered, tmp_path / "a.json", tmp_path / "clips")
    (entry,) = entries(done.annotation)
    assert entry["texts"] == ["caption 0", "another"]
    assert "testset_id" not in entry


def test_paths_are_those_of_the_data_set(tmp_path: Path) -> None:
    """Rows of JSON lines with paths: one inside, one that a stranger would like to see read, one missing."""
    folder = tmp_path / "set"
    (folder / "audio").mkdir(parents=True)
    (folder / "audio/1.wav").write_bytes(wav(1))
    (tmp_path / "secret.wav").write_bytes(wav(2))
    paths = ["audio/1.wav", "../secret.wav", str(tmp_path / "secret.wav"), "audio/2.wav"]
    lines = [json.dumps({"audio": path, "text": "x", "Q": "what?"}) for path in paths]
    (folder / "train.jsonl").write_text("\n".join(lines))
    offered = offer(str(folder), "train", "QA", columns=Columns(question="Q"))
    done = prepare(offered, tmp_path / "a.json", tmp_path / "clips")
    (entry,) = entries(done.annotation)
    assert (entry["path"], entry["Q"]) == ("clips/00000000.flac", "what?")
    assert [line.partition(":")[0] for line in done.reasons] == [
        "2 x its path is no file of the data set",
        "1 x missing",
    ]


def test_what_cannot_be_read_is_told(own: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="asked for a column 'text', found audio, sentence, captions, uid"):
        list(offer(str(own), "train", "asr"))
    with pytest.raises(DataError, match="split 'test' cannot be read as a data set"):
        list(offer(str(own), "test", "asr"))
    (tmp_path / "program").mkdir()
    (tmp_path / "program/program.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    with pytest.raises(DataError, match="cannot be read as a data set"):
        list(offer(str(tmp_path / "program"), "train", "asr"))
    assert not Path("ran").exists()


def test_the_command(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "own.json"
    arguments = ["--split", "train", "--task", "asr", "--text-column", "sentence", "--id-column", "uid"]
    arguments += ["--max-clips", "2", "--out", str(out), "--workers", "1", "--clips", str(tmp_path / "clips")]
    assert _run(["data", "prepare", "huggingface", str(own), *arguments]) == 0
    assert capsys.readouterr().out == f"2 entries in {out}, 2 clips written; 0 left out\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine in the place of the real one, and an empty cache."""
    with serving() as hub:
        use(hub, monkeypatch, WRITING)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
        monkeypatch.setattr("datasets.config.USE_PARQUET_EXPORT", False)  # another server's
        monkeypatch.setattr("datasets.config.STREAMING_READ_RETRY_INTERVAL", 0)
        for name in ("huggingface_hub.constants.HF_HUB_CACHE", "datasets.config.HF_DATASETS_CACHE"):
            monkeypatch.setattr(name, str(tmp_path / "cache"))
        yield hub


def publish(hub: Hub, folder: Path) -> dict[str, bytes]:
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    hub.repositories[f"datasets/owner/{folder.name}"] = Repository(branches={"main": files})
    return files


def prepared(source: str, out: Path, text: str) -> tuple[dict[str, bytes], list[str]]:
    """What a preparation writes, records aside, and what it leaves out."""
    done = prepare(offer(source, "train", "asr", columns=Columns(text=text)), out / "a.json", out / "a")
    return {file.name: file.read_bytes() for file in out.glob("**/*.[jf]*") if file.is_file()}, done.reasons


def test_the_hub_gives_what_a_folder_gives(own: Path, hub: Hub, tmp_path: Path) -> None:
    """Audio inside the rows; and beside them, as the library makes a data set of a folder."""
    (own / "data" / "0.wav").unlink()
    beside = tmp_path / "beside"
    (beside / "train").mkdir(parents=True)
    for seed in (5, 6):
        (beside / "train" / f"{seed}.wav").write_bytes(wav(seed))
    lines = [json.dumps({"file_name": f"{seed}.wav", "text": f"number {seed}"}) for seed in (5, 6)]
    (beside / "train" / "metadata.jsonl").write_text("\n".join(lines))
    for folder, text, expected in ((own, "sentence", 1), (beside, "text", 2)):
        publish(hub, folder)
        here, left_out = prepared(str(folder), tmp_path / "here" / folder.name, text)
        there, left_out_there = prepared(f"owner/{folder.name}", tmp_path / "there" / folder.name, text)
        assert len(entries(tmp_path / "there" / folder.name / "a.json")) == expected
        assert here == there
        assert len(left_out) == len(left_out_there)


def test_rows_of_the_hub_are_streamed(hub: Hub, tmp_path: Path) -> None:
    rows = [{"audio": {"bytes": b"a", "path": None}, "text": str(number)} for number in range(20)]
    (tmp_path / "own").mkdir()
    for part in range(2):
        name = f"train-0000{part}-of-00002.parquet"
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "own" / name)
    publish(hub, tmp_path / "own")
    offered = offer("owner/own", "train", "asr", most=10)
    assert [clip.texts for clip in offered if isinstance(clip, Clip)] == [(str(n),) for n in range(10)]
    read = {path.rpartition("/")[2] for method, path, _ in hub.asked if method == "GET"}
    assert {name for name in read if name.endswith(".parquet")} == {"train-00000-of-00002.parquet"}


def test_paths_are_those_of_the_data_set_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    folder, secret = tmp_path / "set", tmp_path / "secret.wav"
    (folder / "audio").mkdir(parents=True)
    (folder / "audio/1.wav").write_bytes(wav(1))
    secret.write_bytes(wav(2))
    hub.repositories["datasets/owner/private"] = Repository(branches={"main": {"secret.wav": wav(3)}})
    paths = ["audio/1.wav", "hf://datasets/owner/set/audio/1.wav", "audio/2.wav", "../private/secret.wav"]
    paths += [str(secret), f"file://{secret}", f"file://{secret}::hf://datasets/owner/set/audio/1.wav"]
    paths += ["hf://datasets/owner/private/secret.wav", "hf://datasets/owner/set/../private/secret.wav"]
    lines = [json.dumps({"audio": path, "text": "x"}) for path in paths]
    (folder / "train.jsonl").write_text("\n".join(lines))
    publish(hub, folder)
    done = prepare(offer("owner/set", "train", "asr"), tmp_path / "a.json", tmp_path / "clips")
    assert [entry["path"] for entry in entries(done.annotation)] == [f"clips/0000000{i}.flac" for i in (0, 1)]
    assert [line.partition(":")[0] for line in done.reasons] == [
        "6 x its path is no file of the data set",
        "1 x missing",
    ]
    assert not any("private" in path for _, path, _ in hub.asked)


def test_what_the_hub_does_not_give_is_told(
    own: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "prepare", "huggingface", "owner/own", "--task", "asr", "--out", str(tmp_path / "a")]
    arguments += ["--workers", "1", "--split", "train"]

    def told() -> str:
        assert _run(arguments) == 2
        return capsys.readouterr().err

    assert "'owner/own' doesn't exist on the Hub" in (error := told())
    assert "whether name and split are those of the hub" in error
    files = publish(hub, own)
    use(hub, monkeypatch, "hf_unknown")
    assert "`hf auth login`" in told()
    use(hub, monkeypatch, WRITING)
    files["train.jsonl"] = json.dumps({"audio": "lost.wav", "text": "x"}).encode()
    for name in [name for name in files if name.endswith(".parquet")]:
        del files[name]
    files["lost.wav"] = wav(1)
    hub.faults["GET", "/datasets/owner/own/resolve/main/lost.wav"] = [CUT_OFF] * 50
    assert "lost.wav cannot be read" in told()
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", url)
        assert "whether there is a network" in told()
    assert not (tmp_path / "a").exists()
