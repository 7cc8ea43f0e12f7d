"""Writes result files, which appear complete or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_result(file: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON in the place of ``file``; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")  # on the same file system: the last step is a rename
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(file)
