"""The JSON of reports and benchmarks: written without NaN, read with a word about what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.bootstrap import Interval, PairedResult
from audiolm_compress.untrusted import parse_json


def written(content: Mapping[str, Any]) -> str:
    """JSON with a line end. It has no NaN and no infinity; a figure that is not a number becomes null."""
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(text: str, kind: str, schema: int, keys: Sequence[str]) -> dict[str, Any]:
    """The content of a file that :func:`written` gave.

    Args:
        text: of the file.
        kind: what it is, such as ``report``.
        schema: the only form that is read.
        keys: what such a file holds in every form.

    Raises:
        DataError: it is something else, or in the form of another version.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{kind}: expected the JSON of a {kind}, found no JSON ({error})") from error
    if not isinstance(content, dict) or not all(key in content for key in keys):
        raise DataError(f"{kind}: expected the JSON of a {kind}, with {' and '.join(keys)}")
    found = content.get("schema", 1)
    if found != schema:
        raise DataError(
            f"{kind}: this version reads schema {schema}, found schema {found}; measure again, or "
            "read it with the version that wrote it (environment.audiolm_compress)"
        )
    return content


def read_paired(content: Mapping[str, Any]) -> PairedResult:
    """A paired comparison from its JSON form, that of ``asdict``."""
    intervals = {name: Interval.of(**value) for name, value in content.items() if name.endswith("_interval")}
    return PairedResult(**{**content, **intervals})


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
