"""Writing a folder as a whole: it appears complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from audiolm_compress.errors import AudioLMError


@contextmanager
def whole_folder(target: Path, may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` when the block ends without an error.

    Args:
        target: where the folder is to appear; its parents are made.
        may_replace: says whether what is at ``target`` now may be replaced. An empty folder always may.

    Raises:
        AudioLMError: ``target`` is there and must not be replaced.
    """
    check_replaceable(target, may_replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A sibling: on the same file system, so that the final step is a rename.
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    work.chmod(0o755)
    try:
        yield work
        take_place(work, target, may_replace)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def take_place(
    work: Path, target: Path, may_replace: Callable[[Path], bool], former: Path | None = None
) -> None:
    """Put the folder ``work`` in the place of ``target``, once all of it is on the disk.

    Args:
        work: on the same file system.
        target: there or not.
        may_replace: as of ``whole_folder``.
        former: where what was at ``target`` is while the two change places; default: beside ``work``.

    Raises:
        AudioLMError: ``target`` is there and must not be replaced.
    """
    check_replaceable(target, may_replace)
    settle(work)
    if target.exists():
        former = former or work.with_suffix(".former")
        target.rename(former)
        try:
            work.rename(target)
        except OSError:
            former.rename(target)
            raise
        shutil.rmtree(former)
    else:
        work.rename(target)
    _sync(target.parent)


def settle(folder: Path) -> None:
    """Wait until the disk has everything in ``folder``: a rename must not outlive what it renames."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_replaceable(target: Path, may_replace: Callable[[Path], bool]) -> None:
    """Raise an ``AudioLMError`` if ``target`` exists and is neither empty nor replaceable."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not target.is_symlink() and (not any(target.iterdir()) or may_replace(target)):
        return
    raise AudioLMError(
        f"output {target} exists and is not a model folder of ours, so it is left alone; "
        f"name another folder or remove it"
    )
