"""Files of answers held against the annotation of their test set.

Which clips a file must answer follows from its task. A test set may hold several; without a task given, a
file is taken to be about the kinds of task whose clips it answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiolm_compress.data.annotation import Entry, read_annotation
from audiolm_compress.data.tasks import TaskKind, task_kind
from audiolm_compress.errors import DataError
from audiolm_compress.measurement.answer_file import Problem, Row, read_answers

# What pandas' read_csv takes for a missing value, so that upstream's own validator finds no text there.
_MISSING_TO_PANDAS = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)


@dataclass(frozen=True)
class CheckedAnswers:
    """A file of answers and everything that is wrong with it.

    Attributes:
        path: the file.
        rows: its rows, as far as they can be read.
        problems: in the order of the lines; those about no line come last.
        kinds: the kinds of task that it is about, in the order of the annotation.
        entries: the clips that it must answer, in the order of the annotation.
        others: how many clips of the annotation are of other tasks.
    """

    path: Path
    rows: Sequence[Row]
    problems: Sequence[Problem]
    kinds: tuple[TaskKind, ...]
    entries: Sequence[Entry]
    others: int

    def texts(self) -> list[str]:
        """The answer to each of ``entries``.

        Raises:
            DataError: serious problems; all are listed.
        """
        serious = [problem for problem in self.problems if problem.serious]
        if serious:
            raise DataError(listed(self.path, serious))
        answers = {row.testset_id: row.text for row in self.rows}
        return [answers[entry.id] for entry in self.entries]


def listed(path: Path, problems: Sequence[Problem]) -> str:
    """All problems of a file as one message."""
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    return "\n".join([f"{path}: {count}", *(f"  {problem}" for problem in problems)])


def read_references(path: str | Path) -> list[Entry]:
    """The annotation of a test set, in which every id stands for one clip.

    Raises:
        DataError: the file is unusable, or clips without ``testset_id`` share a path.
    """
    entries = read_annotation(path)
    uses: dict[str, int] = {}
    for entry in entries:
        uses[entry.id] = uses.get(entry.id, 0) + 1
    shared = [identity for identity, count in uses.items() if count > 1]
    if shared:
        raise DataError(f"{path}: the id of more than one clip: {', '.join(shared)}; give each a testset_id")
    return entries


def check_form(path: str | Path) -> tuple[list[Row], list[Problem]]:
    """Read a file of answers without knowing its test set, and find everything that is wrong with it.

    Raises:
        DataError: no such file.
    """
    rows, problems = read_answers(path)
    found = [*problems, *_repeated(rows), *_texts_without_words(rows)]
    return rows, sorted(found, key=lambda problem: problem.line or 0)


def check_answers(
    path: str | Path, references: Sequence[Entry], kind: TaskKind | None = None
) -> CheckedAnswers:
    """As ``check_form``, and hold the file against its test set.

    Args:
        path: CSV with the columns ``testset_id,text``.
        references: of the test set; ids are those of ``Entry.id``.
        kind: of the clips that must be answered; None: of those that are.

    Raises:
        DataError: no such file, or the test set has no clip of this kind.
    """
    path = Path(path)
    rows, problems = check_form(path)
    known = {entry.id: entry for entry in references}
    every = tuple(dict.fromkeys(task_kind(entry.task) for entry in references))
    if kind is not None and kind not in every:
        raise DataError(f"{path}: asked for task {kind}, but the test set has only {', '.join(every)}")
    answered = {task_kind(known[row.testset_id].task) for row in rows if row.testset_id in known}
    kinds = (kind,) if kind else tuple(one for one in every if one in answered) or every
    entries = [entry for entry in references if task_kind(entry.task) in kinds]
    problems = [*problems, *_unasked(rows, known, kinds)]
    problems.sort(key=lambda problem: problem.line or 0)
    seen = {row.testset_id for row in rows}
    problems += [
        Problem(None, f"no answer to testset_id {entry.id!r}") for entry in entries if entry.id not in seen
    ]
    return CheckedAnswers(path, rows, problems, kinds, entries, len(references) - len(entries))


def _repeated(rows: Sequence[Row]) -> list[Problem]:
    first: dict[str, int] = {}
    return [
        Problem(row.line, f"testset_id {row.testset_id!r} again, first in line {first[row.testset_id]}")
        for row in rows
        if first.setdefault(row.testset_id, row.line) != row.line
    ]


def _texts_without_words(rows: Sequence[Row]) -> list[Problem]:
    problems = []
    for row in rows:
        if not row.text.strip():
            message = "empty text, which upstream's validator refuses"
        elif row.text in _MISSING_TO_PANDAS:
            message = f"text {row.text!r}, which pandas and so upstream's validator take for a missing value"
        else:
            continue
        problems.append(Problem(row.line, message, serious=False))
    return problems


def _unasked(rows: Sequence[Row], known: Mapping[str, Entry], kinds: Collection[TaskKind]) -> list[Problem]:
    """Answers to what is not in the test set, or is of another task."""
    problems = []
    for row in rows:
        entry = known.get(row.testset_id)
        if entry is None:
            near = row.testset_id.strip()
            hint = f"; without the spaces around it, {near!r} is known" if near in known else ""
            problems.append(Problem(row.line, f"unknown testset_id {row.testset_id!r}{hint}"))
        elif task_kind(entry.task) not in kinds:
            message = f"testset_id {row.testset_id!r} is of task {entry.task!r}; asked for {', '.join(kinds)}"
            problems.append(Problem(row.line, message))
    return problems
