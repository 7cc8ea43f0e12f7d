"""Where a model comes from: the embedded baseline, an upstream config, a folder of ours or a hub."""

from __future__ import annotations

from pathlib import Path

import torch

from audiolm_compress.errors import BaselineError
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.hub import from_hub, is_hub_id
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream import load_upstream

TINY = Path(__file__).parent / "tiny"


def load_model(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    allow_missing: bool = False,
) -> Salmonn:
    """Load a SALMONN, ready to answer.

    Args:
        source: ``tiny`` (the embedded baseline), a folder that we saved, an upstream YAML config, or the
            hub id (``owner/name``) of a repository with the files of such a folder.
        device: where to put it.
        dtype: of all weights that are not packed; by default Whisper and connector of an upstream config
            are float32, its BEATs and LLM have the dtypes of their files, and a folder has its own.
        allow_missing: of an upstream config, leave trainable tensors that its ``.pth`` lacks as they were
            initialised instead of failing.

    Returns:
        The model in evaluation mode.

    Raises:
        BaselineError: nothing there, unreadable, or tensors that do not fit.

    Example:
        >>> model = load_model("tiny")
        >>> sorted(model.parts())
        ['audio_encoder', 'connector', 'llm', 'speech_encoder']
    """
    check_source(source)
    path = TINY if str(source) == "tiny" else Path(source)
    if path.suffix in (".yaml", ".yml"):
        model = load_upstream(path, dtype, allow_missing)
    else:
        model = store.load(path if path.is_dir() else from_hub(str(source)))
    if dtype is not None:
        model.cast(dtype)
    # Moving, even to where they are, rearranges the weights of packed layers.
    return model if torch.device(device).type == "cpu" else model.to(device)


def check_source(source: str | Path) -> None:
    """Look whether ``load_model`` could find something there; no weights are read, and no network is asked.

    Raises:
        BaselineError: no such file, no folder of a model, and no hub id.
    """
    path = TINY if str(source) == "tiny" else Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise BaselineError(
                f"model {source}: no such file; the path counts from the working directory ({Path.cwd()})"
            )
    elif path.is_dir():
        store.checked_config(path)
    elif path.exists() or not is_hub_id(str(source)):
        raise BaselineError(
            f"model {source}: neither 'tiny', nor a folder that is there, nor an upstream .yaml config, "
            f"nor a hub id (owner/name); check the path"
        )
