"""The text of a recipe: its entries, where each stands in the file, and what was overridden."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from audiolm_compress.errors import RecipeError, did_you_mean
from audiolm_compress.untrusted.yaml_text import compose, read_yaml_text

_OVERRIDE = "--set "  # how the place of an override begins
_DEPTH = 8  # no recipe is nested deeper; an alias that holds itself is nested without end
# The reader passes on what dates that do not exist (2026-13-45) and endless nesting raise.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
KeyPath = tuple[str | int, ...]


def dotted(path: KeyPath) -> str:
    """``("passes", 1, "bits")`` -> ``passes.1.bits``."""
    return ".".join(map(str, path))


@dataclass
class Source:
    """Entries of a recipe with their origin.

    Attributes:
        label: how messages call the recipe.
        folder: start of its relative paths, but for those of overrides.
        content: plain mappings, lists and scalars.
        places: key path -> ``line 12`` or the override that set it.
        complaints: (key path, message) of what is wrong with the text itself, such as keys given twice.
    """

    label: str
    folder: Path
    content: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    complaints: list[tuple[KeyPath, str]] = field(default_factory=list)

    @classmethod
    def of_mapping(cls, content: Mapping[str, Any]) -> Source:
        """Entries that are already in memory."""
        return cls("recipe", Path.cwd(), _unshared(copy.deepcopy(dict(content))))

    @classmethod
    def of_file(cls, path: Path) -> Source:
        """Read a YAML file.

        Raises:
            RecipeError: the file is missing, is not YAML, or is an upstream config.
        """
        try:
            text = read_yaml_text(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else reason
            raise RecipeError(f"{path}: cannot read the recipe: {reason}{_near_file(path)}") from None
        try:
            root = compose(text)
            content = yaml.safe_load(text)
        except _NOT_YAML as error:
            mark = getattr(error, "problem_mark", None)
            where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            raise RecipeError(f"{path}: not YAML: {where}{getattr(error, 'problem', error)}") from None
        if not isinstance(content, dict):
            raise RecipeError(
                f"{path}: a recipe is a mapping with the key `passes`, found {type(content).__name__}"
            )
        if "model" in content and "passes" not in content:
            training = f"; `audiolm-compress train {path}` trains by it" if "run" in content else ""
            raise RecipeError(
                f"{path}: has the section `model` of an upstream config and no `passes`, so it is no recipe; "
                f"give a recipe, and the model to compress with --baseline {path}{training}"
            )
        source = cls(str(path), path.resolve().parent, _unshared(content))
        assert root is not None  # the content is a mapping
        source._locate(root, ())
        source.content.setdefault("name", re.sub(r"[^\w.-]+", "_", path.stem).lstrip(".-") or "recipe")
        return source

    def _locate(self, node: yaml.Node, path: KeyPath) -> None:
        """Note the line of every entry, and the keys that a plain YAML reader would silently overwrite."""
        self.places[path] = f"line {node.start_mark.line + 1}"
        if len(path) > _DEPTH:
            return
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._locate(item, (*path, index))
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                here, line = (*path, key.value), key.start_mark.line + 1
                self._locate(value, here)
                self.places[here] = f"line {line}"
                if key.value in seen:
                    self.complaints.append((here, f"given twice, first in line {seen[key.value]}; keep one"))
                seen[key.value] = line

    def set(self, override: str) -> None:
        """Apply ``key.path=VALUE``; sections that the recipe leaves out are made.

        Raises:
            RecipeError: not of this form, or the path leads into a value or past the end of a list.
        """
        name, equals, text = override.partition("=")
        path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
        if not equals or "" in path:
            raise RecipeError(f"--set {override}: expected KEY.PATH=VALUE, such as passes.1.bits=3")
        try:
            value = yaml.safe_load(text)
        except _NOT_YAML:
            raise RecipeError(f"--set {override}: {text!r} is not a YAML value") from None
        parent: Any = self.content
        for depth, part in enumerate(path):
            _check_step(parent, path[:depth], part, override)
            if depth == len(path) - 1:
                parent[part] = value
            elif isinstance(part, str) and parent.get(part) is None:
                parent[part] = {}
            parent = parent[part]
        # what stood there before is gone, and with it the lines of its entries
        self.places = {key: place for key, place in self.places.items() if key[: len(path)] != path}
        self.places[path] = f"{_OVERRIDE}{override}"

    @property
    def context(self) -> dict[str, Any]:
        """From where `settings.resolve` takes relative paths: those of overrides from the working directory.

        Texts that the recipe itself has, too, are ``unclear`` where the two folders differ.
        """
        overridden = {path for path, place in self.places.items() if place.startswith(_OVERRIDE)}
        given: set[str] = set()
        written: set[str] = set()
        for path, text in _texts(self.content, ()):
            above = (path[:length] for length in range(len(path) + 1))
            (given if overridden.intersection(above) else written).add(text)
        return {"folder": self.folder, "here": given - written, "unclear": given & written}


def _near_file(path: Path) -> str:
    """The question whether another YAML file of the folder of a missing one is meant; empty: none is near."""
    try:
        found = [] if path.exists() else [*path.parent.iterdir()]
    except OSError:
        return ""  # the folder itself is not there, or not readable
    names = sorted(file.name for file in found if file.suffix in {".yaml", ".yml"})
    return did_you_mean(path.name, names)


def _texts(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every text among the entries, with its key path."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict | list) and len(path) <= _DEPTH:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from _texts(value, (*path, key))


def _unshared(node: Any, depth: int = 0) -> Any:
    """A copy where nothing stands in two places, as YAML's aliases do: each may be changed alone."""
    if depth <= _DEPTH and isinstance(node, dict):
        return {key: _unshared(value, depth + 1) for key, value in node.items()}
    if depth <= _DEPTH and isinstance(node, list):
        return [_unshared(value, depth + 1) for value in node]
    return node


def _check_step(parent: Any, path: KeyPath, part: str | int, override: str) -> None:
    here = f"`{dotted(path)}`" if path else "the recipe"
    if isinstance(parent, list):
        if not isinstance(part, int) or part >= len(parent):
            allowed = f"0 to {len(parent) - 1}" if parent else "none, it is empty"
            raise RecipeError(f"--set {override}: {here} is a list with entries {allowed}; found {part!r}")
    elif not isinstance(parent, dict):
        raise RecipeError(f"--set {override}: {here} is the value {parent!r} and has no entry {part!r}")
    elif isinstance(part, int):
        raise RecipeError(
            f"--set {override}: {here} has named entries ({', '.join(parent)}), not number {part}"
        )
