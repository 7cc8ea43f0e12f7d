"""Reads files that ``torch.save`` wrote, without executing anything in them.

``weights_only`` keeps the unpickler to tensors and plain containers. It trusts the file's numbers, though:
records of the archive that unpack to more than was downloaded, and tensors that repeat one byte a milliard
times, are looked for here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from audiolm_compress.errors import BaselineError
from audiolm_compress.salmonn.guarded import check_archive


def read_torch_file(path: str | Path, entries: set[str], *, mapped: bool = False) -> Mapping[str, Any]:
    """The mapping in a ``.pt``, ``.pth`` or ``.bin`` file; its tensors are on the CPU.

    Args:
        path: of the file.
        entries: that the mapping must have.
        mapped: whether the tensors are views of the file, which takes memory for what is looked at alone;
            files in the form before PyTorch 1.6 are read whole.

    Raises:
        BaselineError: missing or unreadable, holding more than plain data or more bytes than the file has, or
            without one of ``entries``.
    """
    path = Path(path)
    try:
        check_records(path)
        # weights_only: the unpickler knows tensors and plain containers, nothing that can run.
        mmap = mapped and zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        check_archive(path, path.stat().st_size, _tensors(content, set()))
    except BaselineError:
        raise
    # What a damaged pickle makes the unpickler raise depends on where it is damaged.
    except Exception as error:
        raise BaselineError(f"{path} cannot be read safely: {error}") from error
    if not isinstance(content, Mapping) or not entries <= content.keys():
        found = (
            ", ".join(sorted(key for key in content if isinstance(key, str)))
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise BaselineError(f"{path} needs the entries {', '.join(sorted(entries))}, but has {found[:500]}")
    return content


def check_records(path: Path) -> None:
    """Look over the records of a torch archive; files in the form before PyTorch 1.6 have none.

    Raises:
        OSError: it cannot be read.
        ValueError: no regular file, a record is compressed, all together are larger than the file, or one
            holds program code.
    """
    if path.exists() and not path.is_file():
        raise ValueError("is no regular file")
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"damaged archive: {error}") from error
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"record {record.filename} is compressed; torch.save stores records as they are")
        if "code" in record.filename.split("/")[:-1] or record.filename.endswith((".py", "constants.pkl")):
            raise ValueError(f"record {record.filename} is program code (TorchScript); save a state dict")
    total = sum(record.file_size for record in records)
    if total > path.stat().st_size:
        raise ValueError(f"its records promise {total} bytes, the file has {path.stat().st_size}")


def _tensors(node: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """Every tensor in plain containers, each once: a pickle may name one list a milliard times."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _tensors(value, seen)
