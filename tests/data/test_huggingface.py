"""Data sets of the Hugging Face library: streamed from a folder, without its decoder and without its code."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm_compress.cli import _run
from audiolm_compress.data.audio import load_audio
from audiolm_compress.data.corpora.huggingface import Columns, offer
from audiolm_compress.data.prepare import prepare
from audiolm_compress.errors import DataError

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
