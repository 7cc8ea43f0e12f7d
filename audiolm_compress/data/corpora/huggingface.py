"""Data sets in the form of the Hugging Face library ``datasets``: a folder or a hub id, streamed.

Audio columns are read as the bytes or paths that they hold and decoded by soundfile, as all audio here is;
the library's own decoder (torchcodec) is not needed. Data sets that come as a program are refused by the
library since its version 4, and no option here asks for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from audiolm_compress.data.corpora.clip import Clip, Missing, Offer, Piece
from audiolm_compress.errors import DataError

_HUB = "hf://datasets/"
_PACKED = ("zip://[^:]*::", "tar://[^:]*::", "gzip://[^:]*::")  # in an archive of the data set
_FOREIGN = "its path is no file of the data set"
_TOGETHER = 8  # rows in memory


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a data set.

    Attributes:
        audio: the clips.
        text: reference texts, one or a list of them a row.
        identity: becomes ``testset_id``; empty for none.
        question: becomes ``Q``; empty for none.
    """

    audio: str = "audio"
    text: str = "text"
    identity: str = ""
    question: str = ""

    def names(self) -> list[str]:
        """Those that are in use."""
        return [name for name in (self.audio, self.text, self.identity, self.question) if name]


def offer(
    source: str,
    split: str,
    task: str,
    *,
    subset: str | None = None,
    columns: Columns = Columns(),
    most: int | None = None,
) -> Offer:
    """Every row of a data set, as a clip named by its number.

    Args:
        source: folder or hub id.
        split: of the data set.
        task: of all entries.
        subset: configuration of the data set; None for its only one.
        columns: what is where.
        most: rows that are read; None for all.

    Raises:
        DataError: ``datasets`` is not installed or cannot read the source, or a column is not there.
    """
    for number, row in enumerate(_rows(source, split, subset, columns, most)):
        yield _clip(source, number, row, task, columns)


def _rows(
    source: str, split: str, subset: str | None, columns: Columns, most: int | None
) -> Iterator[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source}: to read it, install datasets: pip install 'audiolm-compress[datasets]'"
        ) from error
    try:
        builder = datasets.load_dataset_builder(source, subset)
        if hasattr(builder.config, "decode_num_threads"):
            builder.config.decode_num_threads = 0  # else files beside the rows are decoded, if on the hub
        data = builder.as_streaming_dataset(split=split)
        # As tables of Arrow, which show what is stored: as rows, audio would go through torchcodec.
        tables = data.with_format("arrow").iter(batch_size=_TOGETHER)
        yield from islice(chain.from_iterable(_stored(source, table, columns) for table in tables), most)
    except DataError:
        raise
    except Exception as error:  # datasets hands on what the reader of each form raises
        raise DataError(_unread(source, f"split {split!r}", error)) from error


def _stored(source: str, table: Any, columns: Columns) -> list[dict[str, Any]]:
    lacking = [name for name in columns.names() if name not in table.column_names]
    if lacking:
        raise DataError(f"{source}: asked for a column {lacking[0]!r}, found {', '.join(table.column_names)}")
    return list(table.select(columns.names()).to_pylist())


def _clip(source: str, number: int, row: dict[str, Any], task: str, columns: Columns) -> Clip | Missing:
    name = f"{number:08d}"
    found = row[columns.text]
    texts = [
        text.strip() for text in (found if isinstance(found, list) else [found]) if isinstance(text, str)
    ]
    if not any(texts):
        return Missing(name, f"no text in column {columns.text!r}")
    value = row[columns.audio]
    held = value if isinstance(value, dict) else {"path": value}
    audio = held.get("bytes") or _of_path(source, held.get("path"))
    if isinstance(audio, str):
        return Missing(name, audio)
    extras: dict[str, object] = {"source": Path(source).name}
    if columns.identity:
        extras["testset_id"] = row[columns.identity]
    if columns.question:
        extras["Q"] = row[columns.question]
    return Clip(audio, tuple(dict.fromkeys(filter(None, texts))), task, extras, Piece(name))


def _of_path(source: str, path: Any) -> Path | bytes | str:
    """The file of a row, its bytes where it lies on the hub, or why it has none.

    A row may name any file of this machine, or one of the hub that this user alone may read; only those of
    the data set are read.
    """
    if not isinstance(path, str) or not path:
        return "no audio"
    folder = Path(source)
    if folder.is_dir():
        file = folder / path
        return file if file.resolve().is_relative_to(folder.resolve()) else _FOREIGN
    place = path if "://" in path else f"{_HUB}{source}/{path}"
    own = rf"({'|'.join(_PACKED)})?{re.escape(_HUB + source)}(@[^/]+)?/[^/].*"
    if not re.fullmatch(own, place, re.DOTALL) or ".." in place.split("/"):
        return _FOREIGN
    import fsspec

    try:
        with fsspec.open(place) as stored:
            return bytes(stored.read())
    except FileNotFoundError:
        return "missing"
    except Exception as error:  # the client's, httpx' and those of every kind of archive
        raise DataError(_unread(source, place, error)) from error


def _unread(source: str, what: str, error: Exception) -> str:
    told = f"{source}: {what} cannot be read as a data set ({' '.join(str(error).split())})"
    if Path(source).is_dir():
        return told
    return (
        f"{told}; as it is no folder here, see whether name and split are those of the hub, whether there is "
        "a network, and whether what is private or gated is yours to read (`hf auth login`)"
    )
