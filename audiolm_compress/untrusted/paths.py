"""Files that a downloaded folder or an annotation may make this process read: those in the folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

# A variable of the environment, not a recipe's key: whoever wrote the recipe may be who wrote the link. It
# also reaches the processes that measure.
OUTSIDE_ALLOWED = "AUDIOLM_ALLOW_OUTSIDE"
_SPECIAL = re.compile(r"[\0\\:]")


def escapes(name: str) -> str:
    """Why a relative path that a file gives would leave its folder by its own words; "" if it stays."""
    if name[:1] != "/" and ".." not in name and not _SPECIAL.search(name):
        return ""  # most of a million; what follows takes a dozen times as long
    if "\0" in name:
        return "contains a NUL character"
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        return "is absolute"
    if ".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts:
        return "leaves its folder through '..'"
    return ""


def linked_outside(folder: Path, names: Iterable[str] | None = None) -> str:
    """The first file that a symbolic link takes out of ``folder``, as ``name -> target``; "" if none.

    The folder itself may be a link. In a hub's cache the files of a snapshot are links to ``blobs`` beside
    ``snapshots``; that belongs to it.

    Args:
        folder: what the user named.
        names: relative paths to look at; None: everything directly in the folder.
    """
    if os.environ.get(OUTSIDE_ALLOWED) == "1":
        return ""
    for name in os.listdir(folder) if names is None else names:  # noqa: PTH208  # names alone
        path = folder / name
        try:
            link = path.is_symlink()
            # A link is the exception: for all others the resolved folder tells, once for all files in it.
            if not link and _holds(str(folder), str(path.parent)):
                continue
            target = path.resolve() if link else _resolved(str(path.parent)) / path.name
        except (OSError, RuntimeError, ValueError):
            continue  # a name that is too long, a link to itself: nobody can open it
        if not target.is_relative_to(_root(folder)):
            return f"{name} -> {target}"
    return ""


def _root(folder: Path) -> Path:
    root = _resolved(str(folder))
    return root.parent.parent if root.parent.name == "snapshots" else root


@lru_cache(maxsize=4096)
def _holds(folder: str, inner: str) -> bool:
    return _resolved(inner).is_relative_to(_root(Path(folder)))


@lru_cache(maxsize=4096)
def _resolved(folder: str) -> Path:
    return Path(folder).resolve()
