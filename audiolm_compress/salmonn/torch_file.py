"""Reads files that ``torch.save`` wrote, without executing anything in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from audiolm_compress.errors import BaselineError


def read_torch_file(path: str | Path, entries: set[str]) -> Mapping[str, Any]:
    """The mapping in a ``.pt`` or ``.pth`` file; its tensors are on the CPU.

    Raises:
        BaselineError: missing or unreadable, holding more than plain data, or without one of ``entries``.
    """
    try:
        # weights_only: the unpickler knows tensors and plain containers, nothing that can run.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        raise BaselineError(f"{path} cannot be read safely: {error}") from error
    if not isinstance(content, Mapping) or not entries <= content.keys():
        found = (
            ", ".join(sorted(map(str, content))) if isinstance(content, Mapping) else type(content).__name__
        )
        raise BaselineError(f"{path} needs the entries {', '.join(sorted(entries))}, but has {found}")
    return content
