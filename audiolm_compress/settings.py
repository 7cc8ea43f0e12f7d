"""The base of every recipe entry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo


class Settings(BaseModel):
    """A frozen description: unknown keys and infinite numbers are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


def refuse_idle(settings: BaseModel, *names: str, beside: str, instead: str, section: str = "") -> None:
    """Refuse values that another setting leaves without effect.

    Values equal to their defaults pass: a recipe that is written out in full names them all.

    Args:
        settings: whose fields ``names`` are.
        names: what has no effect.
        beside: the setting that makes it so, such as ``bits=4``.
        instead: what would give it one, as an order.
        section: what stands before the names where the error is shown elsewhere, such as ``losses.``.

    Raises:
        ValueError: one of them was given.
    """
    fields = type(settings).model_fields
    idle = [section + name for name in names if getattr(settings, name) != fields[name].get_default()]
    if idle:
        does, them = ("does", "it") if len(idle) == 1 else ("do", "them")
        raise ValueError(f"{', '.join(idle)} {does} nothing beside {beside}; {instead}, or leave {them} out")


def resolve(value: str, info: ValidationInfo) -> Path:
    """A path from where it is written: the recipe file's folder, without one the working directory.

    Those of overrides start there, too (`recipe_source.Source.context`).

    Raises:
        ValueError: it cannot be looked up: too long, without permission, or a link to itself; or recipe and
            override have the same text, which means two places.
    """
    context = info.context or {}
    if value in context.get("here", ()):
        return _looked_up(Path.cwd(), value)
    path = _looked_up(context.get("folder", Path.cwd()), value)
    if value in context.get("unclear", ()):
        typed = _looked_up(Path.cwd(), value)
        if typed != path and typed.exists():
            raise ValueError(
                f"{value} is {path} in the recipe and {typed} behind --set; give it in full there"
            )
    return path


def _looked_up(start: Path, value: str) -> Path:
    try:
        path = (start / at_home(value)).resolve()
        path.exists()  # True or False, unless one of the reasons of `resolve` lies in the way
    except (OSError, RuntimeError) as error:
        raise ValueError(f"cannot look up {value[:80]!r}: {error.args[-1]}") from error
    return path


def at_home(value: str) -> Path:
    """A path with home folders for ``~`` and ``~user``; one of a user that there is not stays as it is."""
    return Path(os.path.expanduser(value))  # noqa: PTH111  # Path's own raises RuntimeError


def existing_file(value: str, info: ValidationInfo) -> str:
    """The resolved path of a file.

    Raises:
        ValueError: there is none.
    """
    path = resolve(value, info)
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return str(path)


def existing_folder(value: str, info: ValidationInfo) -> str:
    """The resolved path of a folder.

    Raises:
        ValueError: there is none.
    """
    path = resolve(value, info)
    if not path.is_dir():
        raise ValueError(f"no such folder: {path}")
    return str(path)


ExistingFile = Annotated[str, AfterValidator(existing_file)]
ExistingFolder = Annotated[str, AfterValidator(existing_folder)]
