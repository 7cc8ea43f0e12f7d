"""Files of answers in the form of upstream's evaluation: CSV with the columns ``testset_id,text``.

Upstream writes them with pandas: UTF-8, a header line, one row a clip, rows that end in a line feed, and
quotes around a text that holds a comma, a quotation mark or a line break (RFC 4180). Python's ``csv`` module
stops at the first fault and says nothing about others that it reads over, so the reader here is one that
goes on, and tells of each fault the line of the file that it is in.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from audiolm_compress.errors import DataError

COLUMNS = ("testset_id", "text")
_BREAK = re.compile(r"\r\n|\n|\r")
_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)("?)')
_PLAIN = re.compile(r"[^,\r\n]*")
_NEEDS_QUOTES = re.compile(r'[,"\r\n]')
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")  # what "surrogateescape" makes of such bytes
_ENDING = {"\n": "LF", "\r\n": "CRLF", "\r": "CR"}
_BOM = "\ufeff"
_NO_HEADER = "no header"


@dataclass(frozen=True)
class Problem:
    """Something wrong in a file of answers.

    Attributes:
        line: of the file, from 1; None where it is about no single line.
        message: what was found and what was expected.
        serious: whether it must be corrected before the answers can be scored.
    """

    line: int | None
    message: str
    serious: bool = True

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


@dataclass(frozen=True)
class Row:
    """One answer.

    Attributes:
        testset_id: which clip.
        text: the answer.
        line: where the row begins in the file, from 1.
    """

    testset_id: str
    text: str
    line: int = 0


@dataclass(frozen=True)
class _Record:
    line: int
    fields: tuple[str, ...]


def write_answers(path: Path, answers: Iterable[tuple[str, str]]) -> None:
    """Write a file of answers; it appears whole or not at all.

    Args:
        path: the file; its folder is made.
        answers: ``testset_id`` and text of each clip, in the order of the rows.

    Raises:
        DataError: the file cannot be written.
    """
    content = "".join(",".join(map(_quoted, fields)) + "\n" for fields in (COLUMNS, *answers))
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            partial = Path(file.name)
            file.write(content)
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise DataError(f"{path}: answers cannot be written ({error.strerror})") from error


def read_answers(path: str | Path) -> tuple[list[Row], list[Problem]]:
    """Read a file of answers as far as it can be, with everything that is wrong with its form.

    Rows with too many or too few fields are among the rows, as their first field says whose they are.

    Raises:
        DataError: there is no such file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: answers cannot be read ({error.strerror})") from error
    text, problems = _decoded(data)
    records, found = _records(text)
    problems += found
    if not records:
        return [], [*problems, Problem(None, f"the file is empty; expected the header {','.join(COLUMNS)}")]
    header = records[0].fields
    places, complaint = _places(header)
    if complaint:
        problems.append(Problem(records[0].line, complaint))
    if places is None:
        return [], problems
    rows = []
    without_header = complaint.startswith(_NO_HEADER)
    for record in records[0 if without_header else 1 :]:
        if record.fields == ("",):
            problems.append(Problem(record.line, "empty line", serious=False))
            continue
        if len(record.fields) != len(header):
            hint = " (a text with a comma needs quotes)" if len(record.fields) > len(header) else ""
            problems.append(
                Problem(record.line, f"fields: {len(record.fields)}, expected {len(header)}{hint}")
            )
        identity, answer = ("".join(record.fields[place : place + 1]) for place in places)
        rows.append(Row(identity, answer, record.line))
    return rows, sorted(problems, key=lambda problem: problem.line or 0)


def _quoted(field: str) -> str:
    # Not csv.writer: before Python 3.13 it leaves a carriage return without quotes.
    return '"' + field.replace('"', '""') + '"' if _NEEDS_QUOTES.search(field) else field


def _decoded(data: bytes) -> tuple[str, list[Problem]]:
    """The text without byte-order mark; bytes that are no text stay in it as lone surrogates."""
    problems = []
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        problems.append(Problem(1, "UTF-16 text; save the file as UTF-8"))
        return data.decode("utf-16", "replace"), problems
    text = data.decode("utf-8", "surrogateescape")
    if text.startswith(_BOM):
        problems.append(Problem(1, "begins with a byte-order mark; save as UTF-8 without it", serious=False))
        text = text[1:]
    for number, line in enumerate(_BREAK.split(text), 1):
        if _NOT_UTF8.search(line):
            problems.append(Problem(number, "bytes that are no UTF-8 text"))
        if "\0" in line:
            problems.append(Problem(number, "a NUL character, which some readers end the text at"))
    return text, problems


def _records(text: str) -> tuple[list[_Record], list[Problem]]:
    """Rows of fields, and every breach of RFC 4180 among them."""
    records: list[_Record] = []
    problems: list[Problem] = []
    ending: str | None = None
    mixed = False
    position, line = 0, 1
    while position < len(text):
        first, fields, more = line, [], True
        while more:
            start = position
            field, position, complaint = _field(text, position)
            if complaint:
                problems.append(Problem(line, complaint))
            line += len(_BREAK.findall(text, start, position))
            fields.append(field)
            more = text.startswith(",", position)
            position += more
        records.append(_Record(first, tuple(fields)))
        if found := _BREAK.match(text, position):
            ending = ending or found[0]
            if found[0] != ending and not mixed:
                mixed = True
                message = f"the row ends in {_ENDING[found[0]]}, the rows before it in {_ENDING[ending]}"
                problems.append(Problem(line, message, serious=False))
            position, line = found.end(), line + 1
    return records, problems


def _field(text: str, position: int) -> tuple[str, int, str]:
    """The field that begins at a position, where it ends, and what is wrong with its quotes."""
    if quoted := _QUOTED.match(text, position):
        value = quoted[1].replace('""', '"')
        if not quoted[2]:
            return value, quoted.end(), "a quoted text begins here and is never closed"
        rest = _PLAIN.match(text, quoted.end())
        assert rest is not None  # it matches nothing at all as well
        complaint = f"{rest[0]!r} behind a closing quotation mark; double those within a text"
        return value + rest[0], rest.end(), complaint if rest[0] else ""
    plain = _PLAIN.match(text, position)
    assert plain is not None
    complaint = "a quotation mark in a text without quotes; quote the text and double the mark"
    return plain[0], plain.end(), complaint if '"' in plain[0] else ""


def _places(header: tuple[str, ...]) -> tuple[tuple[int, int] | None, str]:
    """Where id and text stand in a row, None if that cannot be told; and what is wrong with the header."""
    if header == COLUMNS:
        return (0, 1), ""
    found, expected = ",".join(header), ",".join(COLUMNS)
    names = [name.strip().lower() for name in header]
    if all(name in names for name in COLUMNS):
        hint = "; leave out the index (pandas: index=False)" if names[1:] == [*COLUMNS] else ""
        complaint = f"header {found!r}, expected {expected!r}{hint}"
        return (names.index(COLUMNS[0]), names.index(COLUMNS[1])), complaint
    if len(header) == len(COLUMNS) and not set(names) & set(COLUMNS):
        return (0, 1), f"{_NO_HEADER}, expected {expected!r}; the first line is {found!r}"
    return None, f"header {found!r}, expected {expected!r}; the rows are not looked at"
