"""Models on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.errors import BaselineError


def is_hub_id(source: str) -> bool:
    """Whether ``source`` has the form ``owner/name``; ``../name`` is a path."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def from_hub(repository: str, patterns: Sequence[str] | None = None) -> Path:
    """Download a repository, or only its files that match ``patterns``; the folder they are in.

    Raises:
        BaselineError: the hub does not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=None if patterns is None else [*patterns]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaselineError(
            f"baseline {repository}: no such folder here, and the hub gave: {error}"
        ) from error
