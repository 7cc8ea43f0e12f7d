"""Writing a folder as a whole: it appears complete or not at all."""

from __future__ import annotations

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
        check_replaceable(target, may_replace)
        if target.exists():
            former = work.with_suffix(".former")
            target.rename(former)
            try:
                work.rename(target)
            except OSError:
                former.rename(target)
                raise
            shutil.rmtree(former)
        else:
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
