"""The audit finds what was put there, and nothing else."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm_compress.cli import _run
from audiolm_compress.data.audit import audit
from audiolm_compress.data.findings import Finding
from audiolm_compress.data.ledger import NAME, SAME_ENTRY, Compared, Ledger
from audiolm_compress.data.tally import Tally
from audiolm_compress.errors import DataError


def clip(
    folder: Path, name: str, seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0
) -> str:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, noise, rate)
    return name


def write(folder: Path, name: str, items: list[Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps({"annotation": items}), encoding="utf-8")
    return path


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A training and a test set with one of each kind of fault."""
    for name, seconds, rate, channels, seed in [
        ("a/1.wav", 2.0, 16_000, 1, 1),
        ("a/2.wav", 0.5, 16_000, 1, 2),
        ("b/3.flac", 31.0, 8_000, 2, 3),
        ("b/4.wav", 3.0, 44_100, 1, 4),
        ("b/leaked.wav", 3.0, 44_100, 1, 5),
    ]:
        clip(tmp_path, name, seconds, rate, channels, seed)
    (tmp_path / "b/5.wav").write_bytes((tmp_path / "b/4.wav").read_bytes())
    (tmp_path / "a/0.wav").write_bytes(b"")
    (tmp_path / "a/text.wav").write_text("no audio at all, as one sees")
    soundfile.write(tmp_path / "a/none.wav", np.zeros(0), 16_000)
    train = [
        {"path": "a/1.wav", "text": "one two", "task": "asr"},
        {"path": "a/2.wav", "text": "three", "task": "asr"},
        {"path": "b/3.flac", "text": "a long clip", "task": "audiocaption", "source": "long ones"},
        {"path": "b/4.wav", "text": "rain falls", "texts": ["drops"], "task": "audiocaption"},
        {"path": "b/4.wav", "text": "It rains", "task": "audiocaption"},
        {"path": "b/5.wav", "text": "Rain  falls", "task": "audiocaption"},
        {"path": "a/1.wav", "text": "one two", "task": "asr"},
        {"path": "a/0.wav", "text": "empty", "task": "asr"},
        {"path": "a/text.wav", "text": "no audio", "task": "asr"},
        {"path": "a/none.wav", "text": "no samples", "task": "asr"},
        {"path": "gone.wav", "text": "x", "task": "asr"},
        {"path": "../out.wav", "text": "x", "task": "asr"},
        "no object",
        {"path": "b/leaked.wav", "text": "leaks", "task": "audiocaption"},
    ]
    test = [
        {"path": "a/1.flac", "text": "one two", "task": "asr"},
        {"path": "b/5.wav", "text": "as the training set has it", "task": "audiocaption"},
    ]
    return write(tmp_path, "train.json", train), write(tmp_path, "test.json", test)


def test_all_faults_are_found(two: tuple[Path, Path]) -> None:
    heard: list[Finding] = []
    found = audit(two, content=True, found=heard.append, workers=2)
    train, test = found.parts
    assert (train.entries, test.entries) == (14, 2)
    assert {kind: [one.index for one in heard if one.kind == kind and one.annotation == train.name]
            for kind in train.findings} == {
        "under 1 s": [1],
        "over 30 s": [2],
        "0 s": [9],
        "unreadable file": [7, 8],
        "missing file": [10],
        "unusable entry": [11, 12],
        "same entry again": [6],
        "same path, other text": [4],
        "same content, other path": [5],
        "same text and length, other path": [5],
        "path in another annotation": [0, 5, 6],
        "content in another annotation": [3, 4],
    }  # fmt: skip
    assert test.findings == {"missing file": 1, "path in another annotation": 2}
    assert [(leak.first, leak.second, leak.count) for leak in found.leaks["path"]] == [(0, 1, 2)]
    assert train.rates == {16_000: 4, 8_000: 1, 44_100: 4}
    assert train.channels == {1: 8, 2: 1}
    assert train.seconds.largest == 31 and train.seconds.least == 0
    groups = {key: group.entries for key, group in train.groups.items()}
    assert groups == {("a", "asr"): 6, ("long ones", "audiocaption"): 1, ("b", "audiocaption"): 4,
                      ("", "asr"): 1}  # fmt: skip
    assert train.words.count == 13  # the reference texts of twelve usable entries


def test_without_audio_lengths_are_the_entries_own(tmp_path: Path) -> None:
    items = [{"path": f"{i}.wav", "text": "x", "duration": d} for i, d in enumerate([2, 40.5, "long", True])]
    found = audit([write(tmp_path, "a.json", items)], audio=False)
    assert found.parts[0].seconds.count == 2 and found.parts[0].seconds.total == 42.5
    assert found.parts[0].findings == {"over 30 s": 1}
    assert "2 have none" in " ".join(found.notes)
    with pytest.raises(DataError, match="content is asked for without audio"):
        audit([tmp_path / "a.json"], audio=False, content=True)


def test_buckets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What repeats is the same whether digests are compared at once or a few at a time from disk."""
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(3)), *map(int, rng.integers(0, 40, 4))) for _ in range(500)]

    def compared() -> Compared:
        with Ledger() as ledger:
            for row in rows:
                ledger.add(*row)
            return ledger.compare(3)

    whole = compared()
    monkeypatch.setattr("audiolm_compress.data.ledger._BUCKET", 7)
    monkeypatch.setattr("audiolm_compress.data.ledger._BLOCK", 11)
    pieces = compared()
    assert np.array_equal(whole.marks, pieces.marks) and whole.leaks == pieces.leaks
    seen: set[tuple[int, int]] = set()
    for (part, _, entry, *_), mark in zip(rows, whole.marks, strict=True):
        assert bool(mark & SAME_ENTRY) == ((part, entry) in seen)
        seen |= {(part, entry)} if entry else set()
    paths = [{path for part, path, *_ in rows if part == one and path} for one in range(3)]
    assert whole.leaks["path"] == {(a, b): len(paths[a] & paths[b]) for a, b in ((0, 1), (0, 2), (1, 2))}


def test_tally_agrees_with_all_values_at_hand() -> None:
    values = np.random.default_rng(0).gamma(2, 20, 5_000)
    tally = Tally()
    for value in values:
        tally.add(float(value))
    for share in (0.05, 0.5, 0.95, 1.0):
        expected = np.quantile(values, share, method="inverted_cdf")
        assert tally.quantile(share) == pytest.approx(expected, rel=0.01, abs=0.01)
    assert tally.between([0, 1, 30]) == [
        (values < 1).sum(), ((values >= 1) & (values < 30)).sum(), (values >= 30).sum()
    ]  # fmt: skip
    for value in (0.998, 29.98, 299.7, 1999.9):
        one = Tally()
        one.add(value)
        assert one.between([0, round(value)]) == [1, 0]
    assert tally.total == pytest.approx(values.sum())


def test_command(two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, rows, result = tmp_path / "audit.html", tmp_path / "found.csv", tmp_path / "audit.json"
    names = [str(file) for file in two]
    options = ["--html", str(page), "--findings", str(rows), "--json", str(result)]
    assert _run(["data", "audit", *names, *options]) == 0
    shown = capsys.readouterr()
    assert "path in another annotation" in shown.out and "../out.wav" in shown.out
    content = json.loads(result.read_text(encoding="utf-8"))
    assert content["annotations"][0]["findings"]["missing file"] == 1
    assert content["leaks"]["path"][0]["count"] == 2
    with rows.open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == sum(sum(part["findings"].values()) for part in content["annotations"])
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") >= 3 and "Texts by length" in html

    assert _run(["data", "audit", names[0], "--no-audio", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["annotations"][0]["entries"] == 14
    assert _run(["data", "audit", str(tmp_path / "no.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_what_no_terminal_should_see_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        {"path": "\ud800.wav", "text": "half a pair"},
        {"path": "a\x1b[2J\n.wav", "text": "x", "source": "\x1b]0;title\x07"},
        {"path": "p" * 5000, "text": "x", "task": "t" * 5000},
        {"path": ["no", "text"], "text": "x"},
    ]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    rows, page = tmp_path / "rows.csv", tmp_path / "page.html"
    assert _run(["data", "audit", str(file), "--findings", str(rows), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\\x1b[2J" in printed and "\\ud800" in printed
    assert "p" * 300 not in rows.read_text(encoding="utf-8")
    assert _run(["data", "audit", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["annotations"][0]["findings"]["unusable entry"] == 2


def test_links_out_of_the_prefix_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "prefix"
    clip(folder, "own.wav", 2.0)
    (folder / "inner").mkdir()
    for target, link in (("secret.wav", "linked.wav"), ("secret.wav", "inner/linked.wav")):
        clip(tmp_path, target, 2.0)
        (folder / link).symlink_to(tmp_path / target)
    (folder / "twin.wav").symlink_to(folder / "own.wav")
    (folder / "away").symlink_to(tmp_path)
    names = ["own.wav", "linked.wav", "inner/linked.wav", "twin.wav", "away/secret.wav"]
    file = write(folder, "a.json", [{"path": name, "text": "x"} for name in names])
    heard: list[Finding] = []
    found = audit([file], content=True, found=heard.append)
    assert found.parts[0].seconds.count == 2
    outside = [one for one in heard if one.kind == "unreadable file"]
    assert [one.path for one in outside] == ["linked.wav", "inner/linked.wav", "away/secret.wav"]
    assert all("leads out of the prefix" in one.detail for one in outside)


def test_a_leak_is_where_the_file_is(tmp_path: Path) -> None:
    """The same words for a path are no leak if folders differ, but another annotation's copy may be one."""
    for number, name in enumerate(("train/1.wav", "test/1.wav", "test/2.wav")):
        clip(tmp_path, name, 1.5, seed=number)
    above = write(tmp_path, "all.json", [{"path": "./test/2.wav", "text": "a"}])
    train = write(tmp_path, "train/a.json", [{"path": "1.wav", "text": "b"}])
    test = write(
        tmp_path, "test/b.json", [{"path": f"{number}.wav", "text": f"c{number}"} for number in (1, 2)]
    )
    heard: list[Finding] = []
    found = audit([above, train, test], content=True, found=heard.append)
    assert [(leak.first, leak.second) for leak in found.leaks["path"]] == [(0, 2)]
    assert [(leak.first, leak.second) for leak in found.leaks[NAME]] == [(1, 2)]
    kinds = [(Path(one.annotation).name, one.index, one.kind) for one in heard]
    assert kinds == [
        ("all.json", 0, "path in another annotation"),
        ("a.json", 0, "same path in another annotation's folder"),
        ("b.json", 0, "same path in another annotation's folder"),
        ("b.json", 1, "path in another annotation"),
    ]


def test_lengths_that_are_none(tmp_path: Path) -> None:
    """A flac that was piped does not know its length; an index may hold any number."""
    clip(tmp_path, "piped.flac", 2.0)
    content = bytearray((tmp_path / "piped.flac").read_bytes())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "piped.flac").write_bytes(content)
    (part,) = audit([write(tmp_path, "a.json", [{"path": "piped.flac", "text": "x"}])]).parts
    assert part.findings == {"unknown length": 1} and part.seconds.count == 0
    told = [
        {"path": "1.wav", "text": "x", "duration": 10**400},
        {"path": "2.wav", "text": "x", "duration": 5e8},
    ]
    (part,) = audit([write(tmp_path, "b.json", told)], audio=False).parts
    assert part.seconds.count == 1 and part.seconds.quantile(0.5) == 1e6


def test_other_unicode_forms_are_named(tmp_path: Path) -> None:
    clip(tmp_path, unicodedata.normalize("NFD", "é.wav"), 2.0)
    found = audit([write(tmp_path, "a.json", [{"path": "\u00e9.wav", "text": "x"}])])
    assert found.parts[0].findings == {"missing file": 1}
    assert "Unicode's NFD" in found.examples["missing file"][0].detail


def test_no_annotation_is_written_over(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    train, test = two
    before = train.read_bytes()
    for option in ("--json", "--html", "--findings"):
        assert _run(["data", "audit", option, str(train), str(test), "--no-audio"]) == 2
        assert "is an annotation" in capsys.readouterr().err
    assert train.read_bytes() == before


def test_files_of_many_entries_count_once(tmp_path: Path) -> None:
    """Five captions of a clip are one clip's hours; so in every group of entries, and over many buckets."""
    listed = [
        {"path": clip(tmp_path, f"{number}.wav", 1.0 + number, seed=number), "text": text, "task": task}
        for number in range(4)
        for text, task in (("a", "asr"), ("b", "audiocaption"), ("c", "audiocaption"))
    ]
    (part,) = audit([write(tmp_path, "a.json", [*listed, {"path": "gone.wav", "text": "x"}])]).parts
    assert (part.entries, part.files, part.file_seconds) == (13, 5, 10.0)
    groups = {key[1]: (group.entries, group.files, group.file_seconds) for key, group in part.groups.items()}
    assert groups == {"asr": (5, 5, 10.0), "audiocaption": (8, 4, 10.0)}


def test_further_files_are_noted(tmp_path: Path) -> None:
    items = [
        {"path": "a.wav", "text": "x", "expand_wav": ["b.wav"]},
        {"path": "c.wav", "text": "x", "expand_wav": []},
    ]
    assert "1 entries have further files (expand_wav)" in audit([write(tmp_path, "a.json", items)]).notes[-1]


def test_page_escapes_what_annotations_hold(tmp_path: Path) -> None:
    from audiolm_compress.report.html.audit import page

    file = write(tmp_path, "a.json", [{"path": "<script>x</script>/a.wav", "text": "x", "task": "<b>"}])
    assert "<script>x" not in page(audit([file])) and "&lt;b&gt;" in page(audit([file]))
