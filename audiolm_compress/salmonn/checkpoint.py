"""Places the tensors of an upstream ``.pth`` in our modules: every one, or the load fails and names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from audiolm_compress.errors import BaselineError
from audiolm_compress.salmonn.torch_file import read_torch_file
from audiolm_compress.salmonn.upstream_names import our_name

POSITION_IDS = "speech_Qformer.bert.embeddings.position_ids"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The ``model`` entry of an upstream checkpoint, as views of the file: copy what is kept.

    Raises:
        BaselineError: missing, unreadable, of another form, or holding anything but plain data: pickled
            code is refused and never run.
    """
    tensors = read_torch_file(path, {"model"}, mapped=True)["model"]
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise BaselineError(f"{path}: the entry 'model' must map names to tensors")
    return dict(tensors)


def place(model: nn.Module, tensors: Mapping[str, Tensor], required: Iterable[str], origin: str) -> None:
    """Copy upstream's tensors into ``model``.

    Args:
        model: has the parts under our names.
        tensors: under upstream's names, any floating dtype; the values are cast to the parameters'.
        required: our names that the tensors must cover.
        origin: the file, for messages.

    Raises:
        BaselineError: lists every tensor that is unknown, missing, wrongly shaped or, where upstream
            stores one parameter under several names, not the same under all of them.
    """
    own = model.state_dict(keep_vars=True)
    problems = []
    placed: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name == POSITION_IDS:
            if not torch.equal(tensor.flatten(), torch.arange(tensor.numel())):
                problems.append(f"{name}: expected 0, 1, 2, ..., a constant of the upstream code")
            continue
        target = _adapted(our_name(name), own)
        if target not in own:
            problems.append(f"unknown {name} {list(tensor.shape)}")
        elif own[target].shape != tensor.shape:
            problems.append(
                f"{name} has shape {list(tensor.shape)}, but the model's is {list(own[target].shape)}"
            )
        elif target in placed and not torch.equal(placed[target][1], tensor):
            problems.append(f"{name} and {placed[target][0]} name one tensor but differ")
        else:
            placed[target] = (name, tensor)
    missing = sorted(set(required) - placed.keys())
    problems += [f"missing {name}" for name in missing]
    if problems:
        raise BaselineError(f"{origin} does not fit the model:\n  " + "\n  ".join(problems))
    with torch.no_grad():
        for target, (_, tensor) in placed.items():
            own[target].copy_(tensor)


def _adapted(name: str, own: Mapping[str, Tensor]) -> str:
    """Releases of peft before 0.5 had no ``base_layer`` in the names of adapted weights."""
    if name not in own:
        stem, _, leaf = name.rpartition(".")
        if f"{stem}.base_layer.{leaf}" in own:
            return f"{stem}.base_layer.{leaf}"
    return name
