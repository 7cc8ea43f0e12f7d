"""Choices in a recipe: values that are left open, for a search to decide.

    passes:
      - {pass: gptq, bits: {choose: [3, 4]}, group_size: 32}
      - {pass: layer_drop, part: speech_encoder, keep: {choose: {from: 16, to: 32, step: 4}}}
      - {pass: quantize_embedding, when: {choose: [true, false]}}

``{choose: ...}`` stands in the place of a value. The key ``when`` switches a pass on or off, by a choice or
by plain ``true`` and ``false``. What models are measured on and by cannot be a choice: trials are compared.
"""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from audiolm_compress.errors import did_you_mean
from audiolm_compress.recipe_source import KeyPath, Source, dotted

_MARKER = "choose"
_SWITCH = "when"
_RANGE = ("from", "to", "step")
_DEPTH = 12  # no recipe is nested deeper; an alias that holds itself is nested without end
Complaint = tuple[KeyPath, str]


@dataclass(frozen=True)
class Choice:
    """A value that is left open.

    Attributes:
        path: where it stands.
        options: what it may be, the first of them the usual.
        is_range: whether the options are numbers at equal distances.
    """

    path: KeyPath
    options: tuple[Any, ...] = field(hash=False)  # may be lists and mappings
    is_range: bool = False

    @property
    def name(self) -> str:
        """Such as ``passes.1.bits``."""
        return dotted(self.path)


def find_choices(source: Source) -> tuple[list[Choice], list[Complaint]]:
    """All choices of a recipe in the order of writing, and what is wrong with those that are none."""
    choices: list[Choice] = []
    complaints: list[Complaint] = []
    for path, node in _markers(source.content, ()):
        try:
            choices.append(_read(path, node))
        except ValueError as error:
            complaints.append((path, str(error)))
    return choices, complaints


def decided(source: Source, picked: Mapping[Choice, Any]) -> Source:
    """A copy of ``source`` with options in the place of choices."""
    content = copy.deepcopy(source.content)
    for choice, option in picked.items():
        parent: Any = content
        for part in choice.path[:-1]:
            parent = parent[part]
        parent[choice.path[-1]] = copy.deepcopy(option)
    return Source(source.label, source.folder, content, dict(source.places), list(source.complaints))


def take_switches(source: Source) -> list[bool]:
    """Take the key ``when`` out of the passes: which of them are on. Wrong ones are complained about."""
    passes = source.content.get("passes")
    on = []
    for index, entry in enumerate(passes if isinstance(passes, list) else []):
        switch = entry.pop(_SWITCH, True) if isinstance(entry, dict) else True
        on.append(switch is not False)
        path = ("passes", index, _SWITCH)
        if not isinstance(switch, bool) and path not in dict(source.complaints):
            source.complaints.append((path, f"found {switch!r}; expected true or false, or a choice of both"))
    return on


def undecided(choice: Choice) -> Complaint:
    """What a command says that needs every value."""
    written = [json.dumps(option, ensure_ascii=False, default=str) for option in choice.options]  # is YAML
    shown = ", ".join(written[:8]) + (", ..." if len(written) > 8 else "")
    return choice.path, (
        f"is left open ({shown}); `audiolm-compress search` explores it, "
        f"--set {shlex.quote(f'{choice.name}={written[0]}')} decides it"
    )


def _markers(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Mappings that are choices or were meant to be."""
    if len(path) > _DEPTH:
        return
    if isinstance(node, dict):
        (only,) = node if len(node) == 1 else (None,)
        misspelt = isinstance(node.get(only), list | dict) and get_close_matches(str(only), [_MARKER])
        if _MARKER in node or misspelt:
            yield path, node
        else:
            for key, value in node.items():
                yield from _markers(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _markers(value, (*path, index))


def _read(path: KeyPath, node: dict[str, Any]) -> Choice:
    """The choice that ``node`` is.

    Raises:
        ValueError: it is not well-formed, or no choice is possible at ``path``.
    """
    if _MARKER not in node:
        raise ValueError(f"unknown key {next(iter(node))!r}; did you mean {_MARKER!r}?")
    others = [key for key in node if key != _MARKER]
    if others:
        raise ValueError(f"`{_MARKER}` stands alone in the place of a value; found {', '.join(others)} too")
    if path[:1] != ("passes",) and path not in (("data", "calibration"), ("data", "calibration_clips")):
        raise ValueError(
            "cannot be a choice, as trials are compared by one measure; choices may stand in passes, "
            "data.calibration and data.calibration_clips"
        )
    listed = node[_MARKER]
    if isinstance(listed, dict):
        return Choice(path, _range(listed), is_range=True)
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"found {listed!r}; expected a list of values, or from, to and step")
    if any(True for _ in _markers(listed, ())):
        raise ValueError("a choice stands in a choice; list all combinations in one of them")
    if any(type(one) is type(other) and one == other for i, one in enumerate(listed) for other in listed[:i]):
        raise ValueError(f"names a value twice: {listed}")
    return Choice(path, tuple(listed))


def _range(listed: dict[str, Any]) -> tuple[Any, ...]:
    """The numbers from, from + step, ... up to and including ``to``."""
    unknown = [key for key in listed if key not in _RANGE]
    if unknown:
        hint = did_you_mean(str(unknown[0]), _RANGE)
        raise ValueError(f"unknown key {unknown[0]!r}{hint} (keys: {', '.join(_RANGE)})")
    missing = [key for key in _RANGE if key not in listed]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing; a range needs from, to and step")
    start, stop, step = (listed[key] for key in _RANGE)
    wrong = [n for n in (start, stop, step) if isinstance(n, bool) or not isinstance(n, int | float)]
    if wrong:
        raise ValueError(f"found {wrong[0]!r}; from, to and step are numbers")
    if not (step > 0 and stop > start):
        raise ValueError(f"from {start} to {stop} in steps of {step} leads nowhere")
    count = int((stop - start) / step * (1 + 1e-9)) + 1
    numbers = [start + index * step for index in range(count)]
    return tuple(n if isinstance(n, int) else round(n, 10) for n in numbers)
