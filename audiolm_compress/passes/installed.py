"""Passes that other installed packages bring, so that recipes and the command line can name them.

    [project.entry-points."audiolm_compress.passes"]
    block_drop = "block_drop:BlockDrop"

in the ``pyproject.toml`` of a package makes its class ``BlockDrop`` the pass ``block_drop`` wherever that
package is installed (entry points, packaging.python.org/specifications/entry-points). A recipe only names a
pass: which code that is was decided by whoever installed the package, never by the recipe, which may come
from anywhere. A package's code is loaded only where its pass is named or listed, and it cannot take
the name of a pass of this package: those are looked up first.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from audiolm_compress.errors import RecipeError
from audiolm_compress.passes.base import Pass

GROUP = "audiolm_compress.passes"


def installed_names() -> list[str]:
    """Names of the passes that installed packages announce, in order; nothing of them is loaded."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def installed_pass(name: str) -> type[Pass] | None:
    """The pass that an installed package announces by ``name``; None if none does.

    Raises:
        RecipeError: several packages announce it, it cannot be loaded, or it is no pass of this name.
    """
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        return None
    if len(points) > 1:
        packages = ", ".join(sorted(map(_package, points)))
        raise RecipeError(
            f"pass {name!r} is announced by several packages: {packages}; uninstall all but one"
        )
    [point] = points
    whose = f"pass {name!r} of the installed package {_package(point)}"
    try:
        found = point.load()
    except Exception as error:  # whatever its module does wrong when it is imported
        raise RecipeError(
            f"{whose}: {point.value} cannot be loaded ({type(error).__name__}: {error}); correct or "
            "uninstall the package"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise RecipeError(f"{whose}: {point.value} is no subclass of audiolm_compress.passes.base.Pass")
    kind = found.model_fields["kind"].default
    if kind != name:
        raise RecipeError(
            f"{whose}: the `kind` of {point.value} is {kind!r}; give both the same name in its pyproject.toml"
        )
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
