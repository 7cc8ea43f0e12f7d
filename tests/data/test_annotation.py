"""Annotation files: what is read, and that all that is wrong is reported at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.errors import DataError


def write(folder: Path, items: Any, name: str = "ann.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({"annotation": items}), encoding="utf-8")
    return path


def test_defaults_and_extras(tmp_path: Path) -> None:
    items = [
        {"path": "a.wav", "text": "hello"},
        {
            "path": "sub/b.wav",
            "text": "x",
            "texts": ["x", "y"],
            "task": "audiocaption",
            "testset_id": 7,
            "licence": "CC0",
        },
        {"path": "c.wav", "text": "", "task": "QA", "Q": "How many?"},
        {"path": "d.wav", "texts": ["p", "q"], "task": "audiocaption"},
    ]
    plain, caption, question, only_texts = read_annotation(write(tmp_path, items))
    assert (plain.task, plain.Q, plain.id, plain.texts) == ("asr", "", "a.wav", ("hello",))
    assert caption.file == tmp_path / "sub/b.wav" and caption.id == "7"
    assert caption.texts == ("x", "y") and caption.extras == {"licence": "CC0"}
    assert question.Q == "How many?" and question.text == ""
    assert only_texts.text == "p"


def test_prefix_replaces_the_files_folder(tmp_path: Path) -> None:
    (entry,) = read_annotation(write(tmp_path, [{"path": "a.wav", "text": "x"}]), prefix="/data")
    assert entry.file == Path("/data/a.wav")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no list of that name"),
        ('{"annotation": {}}', "no list of that name"),
        ('{"annotation": []}', "empty"),
    ],
)
def test_files_that_are_no_annotation(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "ann.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_annotation(path)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_annotation(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x80\x00")
    with pytest.raises(DataError, match="no UTF-8"):
        read_annotation(tmp_path / "binary.json")


def test_all_bad_entries_are_listed_with_index_and_reason(tmp_path: Path) -> None:
    items: list[Any] = [
        {"path": "good.wav", "text": "x", "testset_id": "1"},
        "just text",
        {"text": "x", "testset_id": "2"},
        {"path": "a.wav", "testset_id": "3"},
        {"path": 3, "text": ["x"], "testset_id": "4"},
        {"path": "/etc/passwd", "text": "x", "testset_id": "5"},
        {"path": "a/../../b.wav", "text": "x", "testset_id": "6"},
        {"path": "a.wav", "text": "x", "testset_id": "1"},
        {"path": "a.wav", "text": "x"},
        {"path": "a.wav", "text": " ", "testset_id": "8"},
        {"path": "a.wav", "text": "x", "texts": "y", "testset_id": "9"},
        {"path": "C:\\a.wav", "text": "x", "testset_id": "10"},
        {"path": "..\\a.wav", "text": "x", "testset_id": True},
    ]
    with pytest.raises(DataError) as caught:
        read_annotation(write(tmp_path, items), require_ids=True)
    message = str(caught.value)
    for line in (
        "entry 1: expected an object, found str",
        "entry 2: no 'path'",
        "entry 3: no 'text'",
        "entry 4: 'path' is int",
        "entry 4: 'text' is list",
        "entry 5: path '/etc/passwd' is absolute",
        "entry 6: path 'a/../../b.wav' leaves its folder",
        "entry 7: testset_id '1' is already used by entry 0",
        "entry 8: no 'testset_id'",
        "entry 9: empty reference text",
        "entry 10: 'texts' must be",
        "entry 11: path 'C:\\\\a.wav' is absolute",
        "entry 12: path '..\\\\a.wav' leaves its folder",
        "entry 12: 'testset_id' is bool",
    ):
        assert line in message, line
    assert "entry 0:" not in message
