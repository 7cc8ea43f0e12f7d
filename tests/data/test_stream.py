"""Annotations in pieces: what json.loads would give, and no memory for what has been passed."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from audiolm_compress.data import stream
from audiolm_compress.data.stream import stream_items
from audiolm_compress.errors import DataError

ITEMS: list[Any] = [
    {"path": "a.wav", "text": 'quote " and \\ and }', "n": [1, {"x": None}]},
    {"path": "é\U0001f600.wav", "text": "\n]"},
    -12345.5e3,
    1.5e300,
    2.5,
    "text",
    True,
    [],
    {},
    1234567890,
]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("layout", [{}, {"indent": 1, "ensure_ascii": False}, {"separators": (",", ":")}])
def test_pieces_of_any_size_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, layout: dict[str, Any]
) -> None:
    monkeypatch.setattr(stream, "_PIECE_BYTES", piece)
    file = tmp_path / "ann.json"
    content = {"info": {"annotation": [0]}, "annotation": ITEMS, "version": 12}
    file.write_text(json.dumps(content, **layout), encoding="utf-8-sig")
    assert list(stream_items(file)) == ITEMS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"annotation": [{"path": "a"}', "not JSON .*expected ',' or ']' at character 29"),
        ('{"annotation": [{"path": "a}]}', "not JSON .*Unterminated string"),
        ('{"annotation": [1 2]}', "not JSON .*expected ',' or ']' at character 18"),
        ('{"annotation": [1,]}', "not JSON"),
        ('{"annotation": [1]} x', "text behind the end"),
        ('{"annotation": [1], "annotation": [2]}', "'annotation' is given twice"),
        ('{"annotation": [{"a": 1, "a": 2}]}', "key 'a' is given twice"),
        ('{"annotation": [{"a": -Infinity}]}', "no JSON number"),
        ('{"annotation": []}', "list is empty"),
        ('{"other": [1]}', "no list of that name"),
        ("{}", "no list of that name"),
        ("[1]", "no list of that name"),
        ("", "not JSON"),
        ("[" * 200_000, "nested deeper than 64 levels"),
        ('{"annotation": [' + "[" * 200_000, "nested deeper than 64 levels"),
    ],
)
def test_what_is_no_annotation_is_one_message(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "ann.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(stream_items(file))


def test_a_value_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(stream, "_VALUE_CHARACTERS", 10_000)
    file = tmp_path / "ann.json"
    file.write_text('{"annotation": ["' + "x" * 10_000_000, encoding="utf-8")
    tracemalloc.start()
    with pytest.raises(DataError, match="Unterminated string"):
        list(stream_items(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_PIECE_BYTES", 1 << 14)
    file = tmp_path / "ann.json"
    item = json.dumps({"path": "a" * 100, "text": "b" * 100})
    file.write_text('{"annotation": [' + ",".join([item] * 20_000) + "]}", encoding="utf-8")
    tracemalloc.start()
    assert sum(1 for _ in stream_items(file)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < file.stat().st_size / 10


def test_no_text_and_no_file(tmp_path: Path) -> None:
    file = tmp_path / "ann.json"
    file.write_bytes(b'{"annotation": ["\xff"]}')
    with pytest.raises(DataError, match="no UTF-8 text"):
        list(stream_items(file))
    with pytest.raises(DataError, match="cannot be read"):
        list(stream_items(tmp_path / "gone.json"))
