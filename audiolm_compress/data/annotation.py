"""SALMONN annotation files: which clip, which task, which reference texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiolm_compress.data.stream import stream_items
from audiolm_compress.data.tasks import task_kind
from audiolm_compress.errors import DataError
from audiolm_compress.untrusted import OUTSIDE_ALLOWED, escapes, linked_outside

_BYTES = 2 * 2**30  # of a file whose entries are all kept; 1.6 million have 0.5 GB
EXPANSION = "expand_wav"  # further files of an entry, which upstream appends to the first
_KNOWN = ("path", "text", "texts", "task", "testset_id", "Q")
# A clip without speech or sound worth a caption is no reference, but a question may stand without an answer.
_KINDS_WITH_REFERENCE = ("asr", "aac")


@dataclass(frozen=True)
class Entry:
    """One checked entry of an annotation file.

    Attributes:
        path: as written in the file, relative to the prefix.
        file: prefix and path joined.
        text: the first reference text; may be empty for tasks other than recognition and captioning, and
            where texts are not required.
        texts: all reference texts, ``text`` first.
        task: task name, ``asr`` where the entry has none.
        testset_id: id under which a test set reports the clip, or None.
        Q: question of a question-answering entry, else empty.
        extras: the other keys as they are (licence, attribution, ...).
    """

    path: str
    file: Path
    text: str
    texts: tuple[str, ...]
    task: str = "asr"
    testset_id: str | None = None
    Q: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """``testset_id`` where present, else the path."""
        return self.path if self.testset_id is None else self.testset_id

    def outside(self) -> str:
        """Why the file is none of the prefix's: a symbolic link leads out of it; "" if none does."""
        folder = self.file.parents[len(Path(self.path).parts) - 1]
        target = linked_outside(folder, [self.path])
        return target and (
            f"a symbolic link leads out of the prefix: {target}; copy the file, or set "
            f"{OUTSIDE_ALLOWED}=1 if the link is yours"
        )


def read_annotation(
    path: str | Path,
    *,
    prefix: str | Path | None = None,
    require_ids: bool = False,
    require_texts: bool = True,
) -> list[Entry]:
    """Read and check ``{"annotation": [{"path", "text", "task", "testset_id", "Q", "texts"}, ...]}``.

    Args:
        path: the JSON file.
        prefix: folder that the entries' paths are relative to; None means the file's own folder.
        require_ids: refuse entries without ``testset_id``, which a test set needs where texts are handed in.
        require_texts: refuse entries without a reference text, which such a test set may keep to itself.

    Raises:
        DataError: the file cannot be read, or entries are unusable; all are listed with index and reason.
    """
    path = Path(path)
    folder = path.parent if prefix is None else Path(prefix)
    problems: list[str] = []
    entries: list[Entry] = []
    first_use: dict[str, int] = {}
    read = 0
    for index, item in enumerate(stream_items(path, limit=_BYTES)):
        read += 1
        reasons = entry_problems(item, require_ids=require_ids, require_texts=require_texts)
        if not reasons:
            entry = make_entry(item, folder)
            if entry.testset_id is not None:
                used = first_use.setdefault(entry.testset_id, index)
                if used != index:
                    reasons = [f"testset_id {entry.testset_id!r} is already used by entry {used}"]
            entries.append(entry)
        problems += [f"  entry {index}: {reason}" for reason in reasons]
    if problems:
        raise DataError(
            f"{path}: {len(problems)} problem(s) in {read} entries:\n"
            + "\n".join(problems)
            + "\nCorrect or remove these entries."
        )
    return entries


def entry_problems(item: Any, *, require_ids: bool = False, require_texts: bool = True) -> list[str]:
    """Everything that is wrong with one entry as it stands in the file; empty if nothing is."""
    if not isinstance(item, dict):
        return [f"expected an object, found {type(item).__name__}"]
    reasons = [
        f"{key!r} is {type(item[key]).__name__}, expected text"
        for key in ("path", "text", "task", "Q", "source")
        if key in item and not isinstance(item[key], str)
    ]
    if "path" not in item:
        reasons.append("no 'path'")
    elif isinstance(item["path"], str):
        reasons += _path_reasons(item["path"])
    texts = item.get("texts")
    if texts is not None and (
        not isinstance(texts, list) or not all(isinstance(text, str) for text in texts)
    ):
        reasons.append("'texts' must be a list of texts")
    elif require_texts and "text" not in item and not texts:
        reasons.append("no 'text' (and no 'texts')")
    identity = item.get("testset_id")
    if isinstance(identity, bool) or not isinstance(identity, (str, int, type(None))):
        reasons.append(f"'testset_id' is {type(identity).__name__}, expected text or a whole number")
    elif identity == "":
        reasons.append("'testset_id' is empty")
    elif identity is None and require_ids:
        reasons.append("no 'testset_id'")
    if not reasons and any(not _is_text(text) for text in _strings(item)):
        reasons.append("holds half of a surrogate pair, which is no character")
    if require_texts and not reasons:
        kind = task_kind(item.get("task", "asr"))
        if kind in _KINDS_WITH_REFERENCE and not all(text.strip() for text in _texts(item)):
            reasons.append(f"empty reference text, but task {item.get('task', 'asr')!r} is scored against it")
    return reasons


def _path_reasons(path: str) -> Iterable[str]:
    if not path.strip():
        return ["'path' is empty"]
    reason = escapes(path)
    return [f"path {path!r} {reason}; write it relative to the prefix"] if reason else []


def _strings(item: Mapping[str, Any]) -> Iterator[str]:
    for value in item.values():
        yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: JSON lets a lone surrogate pass."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _texts(item: Mapping[str, Any]) -> tuple[str, ...]:
    """All reference texts, ``text`` first, each once."""
    texts = ([item["text"]] if "text" in item else []) + list(item.get("texts") or [])
    return tuple(dict.fromkeys(texts))


def make_entry(item: Mapping[str, Any], folder: Path) -> Entry:
    """The entry of an item without problems; ``folder`` is what its path is relative to."""
    texts = _texts(item)
    identity = item.get("testset_id")
    return Entry(
        path=item["path"],
        file=folder / item["path"],
        text=texts[0] if texts else "",
        texts=texts,
        task=item.get("task", "asr"),
        testset_id=None if identity is None else str(identity),
        Q=item.get("Q", ""),
        extras={key: value for key, value in item.items() if key not in _KNOWN},
    )
