"""Weights of others and of ours, read part by part into memory of their own.

Own, aligned memory: pages of a mapped file give other kernels and so other roundings than before saving. And
piece by piece: pages that were read count as this process's memory until their map is closed, so that one map
of a whole file would double the peak. While a file is read, what is held beyond the tensors themselves is one
piece, or one tensor where that is larger.

Nothing that is pickled is executed, see ``torch_file.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from audiolm_compress.errors import BaselineError
from audiolm_compress.salmonn.fit import check_fit
from audiolm_compress.salmonn.torch_file import read_torch_file
from audiolm_compress.untrusted import read_json

# In the order in which transformers looks for them; an index names the shards.
_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")  # on a hub
_PIECE = 64 * 2**20  # bytes
_Give = Callable[[], Tensor]
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Stored(NamedTuple):
    """A tensor in a file.

    Attributes:
        file: where it is.
        name: under which.
        shape: its sizes.
        dtype: None for those that no weight has.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a folder of transformers: one, or the shards that an index names.

    Raises:
        BaselineError: there are none, or a shard is missing.
    """
    found = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    if found is None:
        raise BaselineError(f"{folder}: no weights: expected one of {', '.join(_NAMES)}")
    if found.suffix != ".json":
        return [found]
    shards = [folder / name for name in sorted(set(read_json(found)["weight_map"].values()))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise BaselineError(f"{folder}: {found.name} names files that are not there: {', '.join(missing)}")
    return shards


def stored_tensors(files: Iterable[Path]) -> list[Stored]:
    """What the headers of files tell; no tensor is read."""
    tensors = []
    for file in files:
        with _opened(file) as entries:
            tensors += [entry for entry, _ in entries.values()]
    return tensors


def read_pieces(file: Path, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Tensors of one file, in the dtypes that they have there, a piece at a time.

    Each piece is forgotten here as soon as the next one is asked for.
    """
    left = list(names)[::-1]
    while left:
        piece: dict[str, Tensor] = {}
        with _opened(file) as entries:
            while left and sum(tensor.nbytes for tensor in piece.values()) < _PIECE:
                name = left.pop()
                piece[name] = entries[name][1]().clone(memory_format=torch.contiguous_format)
        yield piece


def fill(module: nn.Module, stored: Mapping[str, Stored], origin: str) -> None:
    """Put stored tensors in the place of a module's parameters, cast to their dtypes, a piece at a time.

    Args:
        module: parameters on the meta device, tied ones tied, in the dtypes wanted.
        stored: by the module's names. Of tied parameters one name is enough.
        origin: for messages.

    Raises:
        BaselineError: names every tensor that is missing, unknown or wrongly shaped, and those that are
            stored under several names of one parameter but differ.
    """
    expected = module.state_dict()
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if (kept := first.setdefault(id(parameter), name)) != name:
            ties[name] = kept
    found = {name: torch.empty(entry.shape, device="meta") for name, entry in stored.items()}
    check_fit(found, {name: expected[name] for name in expected if name in found or name not in ties}, origin)
    places: dict[Path, dict[str, str]] = {}
    for name, entry in stored.items():
        if name not in ties:
            places.setdefault(entry.file, {})[entry.name] = name
        elif not _equal(entry, stored[ties[name]]):
            raise BaselineError(f"{origin}: {name} and {ties[name]} are one tensor by the config, but differ")
    for file, names in places.items():
        for piece in read_pieces(file, names):
            ready = {names[name]: tensor.to(expected[names[name]].dtype) for name, tensor in piece.items()}
            module.load_state_dict(ready, strict=False, assign=True)


def _equal(one: Stored, other: Stored) -> bool:
    [a], [b] = (
        [piece[entry.name] for piece in read_pieces(entry.file, [entry.name])] for entry in (one, other)
    )
    return torch.equal(a, b)


@contextmanager
def _opened(file: Path) -> Iterator[dict[str, tuple[Stored, _Give]]]:
    """By name, each tensor of a file and what gives it, as a view of the file that is good until the end."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            entries: dict[str, tuple[Stored, _Give]] = {}
            for name in opened.keys():  # noqa: SIM118  # no mapping
                header = opened.get_slice(name)
                entry = Stored(file, name, tuple(header.get_shape()), _DTYPES.get(header.get_dtype()))
                entries[name] = (entry, partial(opened.get_tensor, name))
            yield entries
        return
    content = read_torch_file(file, set(), mapped=True)
    if not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise BaselineError(f"{file}: expected names that map to tensors")
    yield {
        name: (Stored(file, name, tuple(tensor.shape), tensor.dtype), partial(content.__getitem__, name))
        for name, tensor in content.items()
    }
