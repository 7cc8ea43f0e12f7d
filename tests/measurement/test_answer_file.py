"""Upstream's CSV of answers: what is written is read, by others too, and every fault is found."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from audiolm_compress.data.annotation import Entry
from audiolm_compress.errors import DataError
from audiolm_compress.measurement.answer_check import check_answers, read_references
from audiolm_compress.measurement.answer_file import read_answers, write_answers

ALPHABET = [*"ab ,\"\n\r\t;'", "\r\n", '""', '",', "\u2028", "\x85", "é", "한국어", "🎧", "\ufeff"]


def references(*tasks: str) -> list[Entry]:
    """Clips t0, t1, ... of these tasks."""
    return [Entry(f"{i}.wav", Path(f"{i}.wav"), "a", ("a",), task, f"t{i}") for i, task in enumerate(tasks)]


def found(tmp_path: Path, content: str | bytes, *tasks: str) -> list[str]:
    """Every problem of a file, in words; those that forbid to score it after an exclamation mark."""
    file = tmp_path / "answers.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems = check_answers(file, references(*tasks)).problems
    return [("! " if problem.serious else "") + str(problem) for problem in problems]


@pytest.mark.parametrize("seed", range(200))
def test_what_is_written_is_read(seed: int, tmp_path: Path) -> None:
    """Any texts: commas, quotes, line breaks of all kinds, other scripts, nothing."""
    draw = random.Random(seed)
    answers = [
        (f"clip {i}" + draw.choice(ALPHABET), "".join(draw.choices(ALPHABET, k=draw.randrange(9))))
        for i in range(draw.randrange(6))
    ]
    file = tmp_path / "folder" / "answers.csv"
    write_answers(file, answers)
    rows, problems = read_answers(file)
    assert problems == []
    assert [(row.testset_id, row.text) for row in rows] == answers
    with file.open(encoding="utf-8", newline="") as stream:
        assert [tuple(row) for row in csv.reader(stream)] == [("testset_id", "text"), *answers]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "answers.csv").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_answers(tmp_path / "answers.csv", [("t0", "a")])
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]


def test_upstreams_own_file_is_read(parity: Path, tmp_path: Path) -> None:
    """Byte by byte the same when it is written again."""
    file = parity / "gemma" / "eval_submission.csv"
    rows, problems = read_answers(file)
    assert problems == [] and [row.testset_id for row in rows] == ["t0", "t1"]
    write_answers(tmp_path / "again.csv", [(row.testset_id, row.text) for row in rows])
    assert (tmp_path / "again.csv").read_bytes() == file.read_bytes()


def test_a_good_file_has_no_problem(tmp_path: Path) -> None:
    content = 'testset_id,text\nt1,"a, ""b""\nc"\nt0,none of it\n'
    assert found(tmp_path, content, "asr", "asr") == []
    checked = check_answers(tmp_path / "answers.csv", references("asr", "asr", "audiocaption"))
    assert checked.texts() == ["none of it", 'a, "b"\nc']
    assert checked.kinds == ("asr",) and checked.others == 1


def test_every_problem_is_found_with_its_line(tmp_path: Path) -> None:
    content = (
        "testset_id,text\n"
        't0,"two\nlines"\n'  # lines 2 and 3
        "t0,again\n"
        " t1,spaced\n"
        "nobody,x\n"
        "t2,a, b\n"
        "t3,\n"
        "\n"
        "t4,null\n"
        't5,a "b" c\n'
        't6,"a" b\r\n'
        "t7\n"
        't9,"open\nt8,x\n'
    )
    assert found(tmp_path, content, *["asr"] * 10) == [
        "! line 4: testset_id 't0' again, first in line 2",
        "! line 5: unknown testset_id ' t1'; without the spaces around it, 't1' is known",
        "! line 6: unknown testset_id 'nobody'",
        "! line 7: fields: 3, expected 2 (a text with a comma needs quotes)",
        "line 8: empty text, which upstream's validator refuses",
        "line 9: empty line",
        "line 10: text 'null', which pandas and so upstream's validator take for a missing value",
        "! line 11: a quotation mark in a text without quotes; quote the text and double the mark",
        "! line 12: ' b' behind a closing quotation mark; double those within a text",
        "line 12: the row ends in CRLF, the rows before it in LF",
        "! line 13: fields: 1, expected 2",
        "line 13: empty text, which upstream's validator refuses",
        "! line 14: a quoted text begins here and is never closed",
        "! no answer to testset_id 't1'",
        "! no answer to testset_id 't8'",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "! the file is empty; expected the header testset_id,text"),
        ("t0,a\n", "! line 1: no header, expected 'testset_id,text'; the first line is 't0,a'"),
        (
            ",testset_id,text\n0,t0,a\n",
            "! line 1: header ',testset_id,text', expected 'testset_id,text'; leave out the index "
            "(pandas: index=False)",
        ),
        ("text,testset_id\na,t0\n", "! line 1: header 'text,testset_id', expected 'testset_id,text'"),
        ("Testset_ID,text\nt0,a\n", "! line 1: header 'Testset_ID,text', expected 'testset_id,text'"),
        (
            "testset_id;text\nt0;a\n",
            "! line 1: header 'testset_id;text', expected 'testset_id,text'; the rows are not looked at",
        ),
        ("\ufefftestset_id,text\nt0,a\n", "line 1: begins with a byte-order mark; save as UTF-8 without it"),
        ("testset_id,text\nt0,a\n".encode("utf-16"), "! line 1: UTF-16 text; save the file as UTF-8"),
        ("testset_id,text\nt0,café\n".encode("latin-1"), "! line 2: bytes that are no UTF-8 text"),
        ("testset_id,text\nt0,a\0\n", "! line 2: a NUL character, which some readers end the text at"),
    ],
)
def test_the_form_of_the_whole_file(content: str | bytes, expected: str, tmp_path: Path) -> None:
    """One fault, and nothing said beside it but that answers are missing where no row can be read."""
    problems = found(tmp_path, content, "asr")
    assert problems[0] == expected
    assert problems[1:] in ([], ["! no answer to testset_id 't0'"])


def test_a_task_asks_for_its_clips_alone(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    write_answers(file, [("t0", "a"), ("t1", "b")])
    clips = references("asr", "audiocaption", "asr")
    checked = check_answers(file, clips, "asr")
    assert [str(problem) for problem in checked.problems] == [
        "line 3: testset_id 't1' is of task 'audiocaption'; asked for asr",
        "no answer to testset_id 't2'",
    ]
    with pytest.raises(DataError, match=r"2 problems\n  line 3: .*\n  no answer"):
        checked.texts()
    assert check_answers(file, clips).kinds == ("asr", "aac")
    with pytest.raises(DataError, match="asked for task qa, but the test set has only asr, aac"):
        check_answers(file, clips, "qa")
    with pytest.raises(DataError, match="cannot be read"):
        check_answers(tmp_path / "gone.csv", clips)


def test_references_need_ids_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "ref.json"
    file.write_text(json.dumps({"annotation": [{"path": "a.wav", "text": "a"}] * 2}), encoding="utf-8")
    with pytest.raises(DataError, match=r"more than one clip: a\.wav"):
        read_references(file)
