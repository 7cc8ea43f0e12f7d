"""Samples are what their definition says; parts of a split share nothing and are as large as asked for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audiolm_compress.cli import _run
from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.data.sample import Drawing, equal_shares, sample
from audiolm_compress.data.split import NOWHERE, deal, split
from audiolm_compress.errors import DataError


def write(path: Path, items: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"annotation": items}), encoding="utf-8")
    return path


def items(**counts: int) -> list[dict[str, Any]]:
    """Entries of several sources, none alike."""
    return [
        {"path": f"{source}/{i}.wav", "text": f"{source} {i}", "task": "asr", "speaker": f"{source}{i % 7}"}
        for source, count in counts.items()
        for i in range(count)
    ]


def drawn_from(path: Path) -> list[str]:
    return [entry.path for entry in read_annotation(path)]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=1, max_size=80),
    st.integers(1, 40),
)
def test_one_reading_draws_what_knowing_all_would(arrivals: list[tuple[int, int]], clips: int) -> None:
    """Of each kind the smallest keys, as many as equal shares of the final counts say."""
    drawing = Drawing(clips)
    kept = 0
    for index, (kind, key) in enumerate(arrivals):
        if drawing.wants((str(kind),), (key, index)):
            drawing.add((str(kind),), (key, index), index)
        kept = max(kept, sum(len(heap) for heap in drawing._kept.values()))
    all_of: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for index, (kind, key) in enumerate(arrivals):
        all_of.setdefault((str(kind),), []).append((key, index))
    shares = equal_shares({name: len(places) for name, places in all_of.items()}, clips)
    expected = {
        name: {index for _, index in sorted(places)[: shares[name]]} for name, places in all_of.items()
    }
    found = {name: {index for index, _ in pairs} for name, pairs in drawing.taken().items()}
    assert found == expected
    assert kept <= clips + len(all_of)


@given(st.dictionaries(st.tuples(st.text(max_size=2)), st.integers(1, 50), min_size=1), st.integers(1, 200))
def test_shares_are_as_equal_as_sizes_allow(sizes: dict[tuple[str], int], total: int) -> None:
    shares = equal_shares(sizes, total)
    assert sum(shares.values()) == min(total, sum(sizes.values()))
    assert all(0 <= shares[name] <= size for name, size in sizes.items())
    cut = [shares[name] for name, size in sizes.items() if shares[name] < size]
    assert not cut or max(shares.values()) - min(cut) <= 1


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=200),
    st.sampled_from([(0.9, 0.1), (0.5, 0.5), (0.8, 0.1, 0.1)]),
)
def test_groups_stay_together(entries: list[tuple[int, int]], shares: tuple[float, ...]) -> None:
    groups = np.array([group for group, _ in entries], dtype=np.uint64)
    parts, count = deal(groups, np.array([kind for _, kind in entries], dtype=np.uint16), shares)
    assert count == len(set(groups.tolist()) - {0})
    for group in set(groups.tolist()):
        held = set(parts[groups == group].tolist())
        assert len(held) == 1 and (held == {NOWHERE}) == (group == 0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.sampled_from([(0.9, 0.1), (0.6, 0.3, 0.1)]))
def test_every_kind_gives_every_part_its_share(counts: list[int], shares: tuple[float, ...]) -> None:
    """Single entries: to within two of each kind, and within one of the whole."""
    kinds = np.repeat(np.arange(len(counts)), counts).astype(np.uint16)
    groups = np.random.default_rng(0).permutation(len(kinds)).astype(np.uint64) + 1
    parts, _ = deal(groups, kinds, shares)
    for place, share in enumerate(shares):
        assert abs((parts == place).sum() - share * len(parts)) <= 1
        for kind, count in enumerate(counts):
            assert abs((parts[kinds == kind] == place).sum() - share * count) <= 2


def test_sample_is_balanced_seeded_and_in_order(tmp_path: Path) -> None:
    file = write(tmp_path / "all.json", items(a=5, b=100, c=300))
    done = sample(file, tmp_path / "few.json", clips=30, audio=False)
    assert done.drawn == {("asr", "a"): 5, ("asr", "b"): 13, ("asr", "c"): 12}
    assert done.entries == {("asr", "a"): 5, ("asr", "b"): 100, ("asr", "c"): 300}
    paths = drawn_from(done.path)
    order = drawn_from(file)
    assert paths == sorted(paths, key=order.index) and len(set(paths)) == 30
    content = json.loads(done.path.read_text(encoding="utf-8"))["annotation"]
    assert all(item in items(a=5, b=100, c=300) for item in content)  # keys of others stay

    again = sample(file, tmp_path / "again.json", clips=30, audio=False)
    assert drawn_from(again.path) == paths
    turned = write(tmp_path / "turned.json", items(a=5, b=100, c=300)[::-1])
    assert set(drawn_from(sample(turned, tmp_path / "t.json", clips=30, audio=False).path)) == set(paths)
    assert set(drawn_from(sample(file, tmp_path / "s.json", clips=30, audio=False, seed=1).path)) != set(
        paths
    )
    alike = sample(file, tmp_path / "alike.json", clips=300, by=(), audio=False)
    assert Counter(path[0] for path in drawn_from(alike.path))["c"] > 200  # as often as they occur


def test_clips_of_a_sample_can_be_read(tmp_path: Path) -> None:
    listed = items(a=20)
    for item in listed[:12]:
        (tmp_path / item["path"]).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / item["path"], np.full(1600, 0.1), 16_000)
    file = write(tmp_path / "all.json", [*listed, {"text": "no path"}])
    with pytest.raises(DataError, match=r"9 entries cannot be used:[\s\S]*missing[\s\S]*on bad: skip"):
        sample(file, tmp_path / "few.json", clips=15)
    assert not (tmp_path / "few.json").exists()
    done = sample(file, tmp_path / "few.json", clips=15, on_bad="skip")
    assert sorted(drawn_from(done.path)) == sorted(item["path"] for item in listed[:12])
    assert "9 entries that cannot be used are left out" in done.notes[0]
    assert "15 clips were asked for and there are 12" in done.notes[1]


def test_split_shares_no_clip(tmp_path: Path) -> None:
    captions = [dict(item, text=f"caption {n}") for item in items(a=60, b=40) for n in range(3)]
    twin = dict(captions[0], path="a/0.flac", text="the same clip after conversion")
    file = write(tmp_path / "all.json", [*captions, twin])
    done = split(file, {"train": 0.8, "valid": 0.1, "test": 0.1})
    held = {name: {path.partition(".")[0] for path in drawn_from(part)} for name, part in done.files.items()}
    assert not held["train"] & held["test"] and not held["train"] & held["valid"]
    assert held["train"] | held["valid"] | held["test"] == {item["path"][:-4] for item in captions}
    assert done.groups == 100
    for counts, total in zip(done.entries.values(), (181, 120), strict=True):
        assert sum(counts) == total
        assert counts == pytest.approx([0.8 * total, 0.1 * total, 0.1 * total], abs=6)  # two clips' captions

    first = done.files["test"].read_text(encoding="utf-8")
    split(file, {"train": 0.8, "valid": 0.1, "test": 0.1}, replace=True)
    assert done.files["test"].read_text(encoding="utf-8") == first
    split(file, {"train": 0.8, "valid": 0.1, "test": 0.1}, replace=True, seed=1)
    assert done.files["test"].read_text(encoding="utf-8") != first


def test_a_split_does_not_depend_on_the_order(tmp_path: Path) -> None:
    """One clip is of two kinds, and kinds are met in another order."""
    listed = items(a=13, b=7, c=11)
    listed += [dict(item, task="audiocaption") for item in listed[::3]]
    files = [write(tmp_path / name / "all.json", listed[::step]) for name, step in (("one", 1), ("two", -1))]
    halves = [split(file, {"x": 0.7, "y": 0.3}).files["y"] for file in files]
    assert sorted(drawn_from(halves[0])) == sorted(drawn_from(halves[1]))


def test_entries_of_several_files_need_a_group(tmp_path: Path) -> None:
    listed = [dict(item, expand_wav=["a/0.wav"]) for item in items(a=10)]
    file = write(tmp_path / "all.json", listed)
    with pytest.raises(DataError, match=r"has further files \(expand_wav\).*name a group"):
        split(file, {"x": 0.5, "y": 0.5})
    assert split(file, {"x": 0.5, "y": 0.5}, group="speaker").groups == 7


def test_split_by_a_key_and_by_content(tmp_path: Path) -> None:
    listed = items(a=70, b=30)
    file = write(tmp_path / "all.json", listed)
    halves = split(file, {"one": 0.5, "two": 0.5}, group="speaker", by=()).files.values()
    speakers = [{entry.extras["speaker"] for entry in read_annotation(half)} for half in halves]
    assert not speakers[0] & speakers[1] and len(speakers[0] | speakers[1]) == 14

    for number, item in enumerate(listed):
        (tmp_path / item["path"]).parent.mkdir(exist_ok=True)
        (tmp_path / item["path"]).write_bytes(b"content %d" % (number // 2))
    done = split(file, {"three": 0.5, "four": 0.5}, content=True)
    assert done.groups == 50
    sides = [set(drawn_from(part)) for part in done.files.values()]
    for pair in zip(listed[::2], listed[1::2], strict=True):
        assert sum(pair[0]["path"] in side and pair[1]["path"] in side for side in sides) == 1

    with pytest.raises(DataError, match="no 'licence' that is text"):
        split(file, {"five": 0.5, "six": 0.5}, group="licence")
    with pytest.raises(DataError, match="choose one"):
        split(file, {"five": 0.5, "six": 0.5}, group="speaker", content=True)


def test_paths_lead_to_the_same_files(tmp_path: Path) -> None:
    file = write(tmp_path / "corpus" / "sub" / "all.json", items(a=10))
    (tmp_path / "elsewhere").mkdir()
    above = sample(file, tmp_path / "few.json", clips=3, audio=False)
    assert all(entry.file.parent == tmp_path / "corpus/sub/a" for entry in read_annotation(above.path))
    parts = split(file, {"x": 0.5, "y": 0.5}, out=tmp_path / "corpus")
    assert all(path.startswith("sub/a/") for path in drawn_from(parts.files["x"]))
    with pytest.raises(DataError, match=r"paths in .* are relative to its folder"):
        sample(file, tmp_path / "elsewhere" / "few.json", clips=3, audio=False)
    kept = sample(file, tmp_path / "elsewhere" / "few.json", clips=3, audio=False, prefix=file.parent)
    assert set(drawn_from(kept.path)) <= {item["path"] for item in items(a=10)}


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    file = write(tmp_path / "all.json", items(a=10))
    there = write(tmp_path / "there.json", [1])
    with pytest.raises(DataError, match="exists and is left alone"):
        sample(file, there, clips=3, audio=False)
    with pytest.raises(DataError, match="exists and is left alone"):
        split(file, {"there": 0.5, "new": 0.5})
    with pytest.raises(DataError, match="is the annotation that is read"):
        split(file, {"all": 0.5, "new": 0.5}, replace=True)
    assert there.read_text() == '{"annotation": [1]}' and not (tmp_path / "new.json").exists()
    sample(file, there, clips=3, audio=False, replace=True)
    assert len(drawn_from(there)) == 3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": 1.0}, "asked for 1 parts"),
        ({"a": 0.5, "b": 0.6}, "add up to 1.1"),
        ({"a": 1.5, "b": -0.5}, "expected between 0 and 1"),
        ({"a": float("nan"), "b": 0.5}, "expected between 0 and 1"),
        ({"../a": 0.5, "b": 0.5}, "cannot be the name of a file"),
        ({"train": 0.99, "test": 0.01}, "part 'test' would be empty: there are 10 groups"),
    ],
)
def test_parts_that_make_no_split(tmp_path: Path, parts: dict[str, float], message: str) -> None:
    file = write(tmp_path / "all.json", items(a=10))
    with pytest.raises(DataError, match=message):
        split(file, parts)
    assert list(tmp_path.iterdir()) == [file]


def test_more_kinds_than_a_table_can_hold(tmp_path: Path) -> None:
    file = write(tmp_path / "all.json", items(a=1001))
    with pytest.raises(DataError, match=r"by text: found more than 1000 kinds .* name fewer keys"):
        sample(file, tmp_path / "few.json", clips=3, by=["text"], audio=False)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "all.json", items(a=20, b=80))
    out, told = str(tmp_path / "few.json"), tmp_path / "told.json"
    arguments = ["data", "sample", str(file), "--clips", "10", "--out", out, "--no-audio"]
    assert _run([*arguments, "--by", "source"]) == 0
    assert [line.split() for line in capsys.readouterr().out.strip().splitlines()[-3:]] == [
        ["b", "80", "5"], ["a", "20", "5"], ["all", "100", "10"]
    ]  # fmt: skip
    assert _run(arguments) == 2
    assert "exists and is left alone" in capsys.readouterr().err

    arguments = ["data", "split", str(file), "--parts", "train=0.9,test=0.1"]
    assert _run([*arguments, "--json", str(told)]) == 0
    assert "100 groups" in capsys.readouterr().out
    content = json.loads(told.read_text(encoding="utf-8"))
    assert content["files"]["test"] == str(tmp_path / "test.json")
    assert content["kinds"][0] == {
        "by": {"task": "asr", "source": "b"},
        "entries": {"found": 80, "train": 72, "test": 8},
    }
    assert _run([*arguments, "--replace", "--json", "--by", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"][0]["by"] == {}
    for wrong in ("train", "a=0.5,a=0.5", "a=x,b=1"):
        assert _run(["data", "split", str(file), "--parts", wrong]) == 2
        assert "expected NAME=SHARE" in capsys.readouterr().err
