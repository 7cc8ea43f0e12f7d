"""Models on the Hugging Face hub, and in the cache that its client keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.errors import BaselineError


def is_hub_id(source: str) -> bool:
    """Whether ``source`` has the form ``owner/name`` or ``owner/name@revision``; ``../name`` is a path.

    >>> is_hub_id("nota/salmonn@v1.0"), is_hub_id("../salmonn")
    (True, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", source) is not None


def from_hub(source: str, patterns: Sequence[str] | None = None, token: str | None = None) -> Path:
    """The folder of a repository in the local cache, downloaded as far as it is not there.

    Without a network, or with ``HF_HUB_OFFLINE=1``, what the cache holds is taken.

    Args:
        source: ``owner/name``, or ``owner/name@revision`` with a branch, tag or commit.
        patterns: of the files wanted; None: all.
        token: opens an account.

    Raises:
        BaselineError: neither hub nor cache gives it.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = source.partition("@")
    wanted = None if patterns is None else [*patterns]
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=wanted, token=token)
        )
    except Exception as error:  # the client's, and what httpx raises when a download is cut off
        answered = isinstance(error.__cause__, HfHubHTTPError)
        if isinstance(error, LocalEntryNotFoundError) and not answered:
            raise BaselineError(
                f"model {source}: no such folder here, and neither a network nor a copy in the cache "
                f"{constants.HF_HUB_CACHE}; where there is a network: hf download {repository}"
                + (f" --revision {revision}" if revision else "")
            ) from error
        told = " ".join(str(error).split()) or type(error).__name__
        raise BaselineError(f"model {source}: no such folder here, and the hub gave: {told}") from error
