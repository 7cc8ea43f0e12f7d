"""YAML that means no more than it says.

Ten lines of aliases of aliases stand for a milliard values ("billion laughs"). PyYAML shares them, so
reading costs nothing; whoever then copies or prints the content pays for all.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from audiolm_compress.untrusted.text import read_text

YAML_BYTES = 512 * 2**10  # PyYAML reads some 100 kB a second; recipes have 2 kB
_VALUES = 50_000
_DEPTH = 64
_TOO_DEEP = f"nested deeper than {_DEPTH} levels, or an alias that holds itself"


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file.

    Raises:
        OSError: it cannot be read.
        ValueError: as :func:`read_text`.
    """
    return read_text(path, YAML_BYTES)


def compose(text: str) -> yaml.Node | None:
    """The nodes of a YAML text; None if it is empty.

    Raises:
        yaml.YAMLError: not YAML.
        ValueError: nested too deep, an alias that holds itself, or aliases that stand for too many values.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if root is not None and _values(root, {}, 0) > _VALUES:
        raise ValueError(f"its aliases stand for more than {_VALUES} values")
    return root


def _values(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for, those behind aliases each time."""
    if depth > _DEPTH:
        raise ValueError(_TOO_DEEP)
    if id(node) in known:
        return known[id(node)]
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    # An alias that holds itself is met again before its count is known, and again, until it is too deep.
    known[id(node)] = found = 1 + sum(_values(part, known, depth + 1) for part in inner)
    return found
