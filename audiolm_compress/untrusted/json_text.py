"""JSON as RFC 8259 has it: no NaN, no key twice in an object, no nesting without end.

Python's reader takes all three; two programs that read such a file need not see the same.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from audiolm_compress.untrusted.text import TEXT_BYTES, read_text

DEPTH = 64  # nothing that this package reads is nested deeper
_TOO_DEEP = f"nested deeper than {DEPTH} levels"


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, a key given twice, NaN, a number beyond float64, or nested too deep.
    """
    try:
        content = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(content)
    return content


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at a place of a text, and the place behind it.

    Raises:
        ValueError: as :func:`parse_json`; also where the text ends within the value.
    """
    try:
        content, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(content)
    return content, end


def read_json(path: Path, limit: int = TEXT_BYTES) -> Any:
    """The value of a JSON file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: as :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path, limit))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {repeated[:80]!r} is given twice in one object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"number {digits[:40]} is out of range")
    return value


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEPTH):
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)
