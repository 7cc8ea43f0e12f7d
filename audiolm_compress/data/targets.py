"""Where annotations made of another one are written, so that their audio paths lead to the same files.

And where nothing is written: over an annotation that nobody asked to replace.
"""

from __future__ import annotations

from pathlib import Path

from audiolm_compress.data.stream import stream_items
from audiolm_compress.errors import DataError


def check_target(target: Path, annotation: Path, replace: bool) -> None:
    """See that a file may be written.

    Raises:
        DataError: it is there and not to be replaced, or is the annotation that is read.
    """
    if target.exists() and annotation.exists() and target.samefile(annotation):
        raise DataError(f"{target}: is the annotation that is read; name another file")
    if target.is_dir():
        raise DataError(f"{target}: is a folder; name a file")
    if target.exists() and not replace:
        raise DataError(f"{target}: exists and is left alone; name another file, or ask for its replacement")


def check_report(target: Path) -> None:
    """See that what is told about annotations is not written over one: a name may be meant as one to read.

    Raises:
        DataError: the file is an annotation.
    """
    try:
        next(stream_items(target))
    except DataError:
        return
    raise DataError(f"{target}: is an annotation, not a report to replace; name another file")


def folder_before_paths(target: Path, annotation: Path, prefix: str | Path | None) -> str:
    """What must stand before each path in ``target``: a folder that ends in "/", or "".

    Paths are relative to a prefix, which then serves both files, or else to the folder of their annotation.

    Raises:
        DataError: without a prefix, if only ``..`` would lead from the target's folder to the audio.
    """
    if prefix is not None:
        return ""
    home, there = annotation.resolve().parent, target.resolve().parent
    if not home.is_relative_to(there):
        raise DataError(
            f"{target}: paths in {annotation} are relative to its folder, which does not lie in {there}; "
            f"write to a folder at or above {home}, or name the prefix: paths then stay as they are"
        )
    between = home.relative_to(there).as_posix()
    return "" if between == "." else f"{between}/"
