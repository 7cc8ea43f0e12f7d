"""Which device a model runs on when none is named."""

from __future__ import annotations

import torch

from audiolm_compress.errors import AudioLMError


def choose_device(name: str | None) -> str:
    """The named device, else the first CUDA card, else the CPU.

    Raises:
        AudioLMError: there is no such device on this machine.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).splitlines()[0]
        raise AudioLMError(f"device {name!r} cannot be used: {reason}; use cpu or leave it out") from error
    return name
