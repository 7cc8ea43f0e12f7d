"""A cache on disk for what frozen modules compute: encoders' states, a teacher's outputs.

A value is found by what it depends on. Its key is a hash of the fingerprint of the module that computes it
(weights and config) and of everything else that goes in, usually the samples of a waveform, so that a changed
model never gets an old value and nobody has to clear anything. Each value is one safetensors file that
appears by a rename: several processes, and several runs, can share a folder without locks.

Example:
    >>> import tempfile, torch
    >>> encoder, waveform = torch.nn.Linear(3, 2), torch.ones(3)
    >>> cache = FeatureCache(tempfile.mkdtemp(), limit_bytes=10**6)
    >>> key = digest(fingerprint(encoder), waveform)
    >>> states = [cache.get(key, lambda: {"states": encoder(waveform)})["states"] for _ in range(2)]
    >>> torch.equal(*states), cache.computed, cache.found
    (True, 1, 1)
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from audiolm_compress.errors import DataError

_SUFFIX, _PARTIAL = ".safetensors", ".partial"
_ROOM = 0.9  # share of the limit that is left in use once it has been reached
_SCAN = 0.05  # share of the limit that a process writes before it looks what others have written
_ABANDONED = 3600  # seconds after which an unfinished file belongs to a process that was killed


class FeatureCache:
    """Values by key, in a folder of limited size; what was not used for longest is removed first.

    Args:
        folder: made if it is missing; may be shared by processes and runs.
        limit_bytes: most that the folder may hold. Each further process that writes at the same time can
            add a twentieth before it notices. A value larger than the limit is computed and not kept.

    Attributes:
        found: values that were read.
        computed: values that were not there and were computed.
        damaged: values among the computed ones that were there but could not be read, or were not what had
            been written.
        removed: values that made room.
        too_large: values that did not fit.

    Raises:
        DataError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, limit_bytes: int) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"feature cache {folder} cannot be made ({error.strerror}); name another folder"
            ) from error
        self.limit_bytes = limit_bytes
        self.found = self.computed = self.damaged = self.removed = self.too_large = 0
        self._total, self._since_scan = 0, 0
        self._scan()

    def get(self, key: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The value under ``key``, computed if it is not there.

        Args:
            key: from ``digest``.
            compute: gives the value; called without gradients.

        Returns:
            Tensors by name, on the CPU and of their own memory, the same whether found or computed.
        """
        path = self.folder / key[:2] / f"{key}{_SUFFIX}"
        value = self._read(path)
        if value is not None:
            self.found += 1
            return value
        with torch.no_grad():
            value = {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in compute().items()
            }
        self.computed += 1
        self._write(path, value)
        return value

    def summary(self) -> str:
        """What happened so far, for a report."""
        text = f"{self.found} found, {self.computed} computed"
        for count, what in (
            (self.damaged, "damaged"),
            (self.removed, "removed"),
            (self.too_large, "too large to keep"),
        ):
            text += f", {count} {what}" if count else ""
        return text

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        try:
            content = path.read_bytes()  # through one handle: another process may remove the file meanwhile
            # Own, aligned memory: a view into the file can give other kernels and so other roundings.
            value = {name: tensor.clone() for name, tensor in load(content).items()}
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            stored = header.get("__metadata__", {}).get("checksum")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError):
            self.damaged += 1
            return None
        if stored != _checksum(value):
            self.damaged += 1
            return None
        with suppress(FileNotFoundError):  # another process may have made room; what was read is good
            os.utime(path)  # the time of last use; access times are switched off on many file systems
        return value

    def _write(self, path: Path, value: Mapping[str, Tensor]) -> None:
        if sum(tensor.nbytes for tensor in value.values()) > self.limit_bytes:
            self.too_large += 1
            return
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.stem}.{uuid4().hex}{_PARTIAL}")
        try:
            # Not safetensors' own writing, whose files nobody else in a shared folder could read.
            partial.write_bytes(save(dict(value), {"checksum": _checksum(value)}))
            size = partial.stat().st_size
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._total += size
        self._since_scan += size
        if self._total > self.limit_bytes or self._since_scan > _SCAN * self.limit_bytes:
            self._scan()

    def _scan(self) -> None:
        """Count what is there, and make room if it is too much."""
        uses: list[tuple[float, int, Path]] = []
        for path, stat in _files(self.folder):
            if path.suffix == _SUFFIX:
                uses.append((stat.st_mtime, stat.st_size, path))
            elif path.suffix == _PARTIAL and time.time() - stat.st_mtime > _ABANDONED:
                path.unlink(missing_ok=True)
        self._total, self._since_scan = sum(size for _, size, _ in uses), 0
        if self._total <= self.limit_bytes:
            return
        for _, size, path in sorted(uses):
            if self._total <= _ROOM * self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            self._total -= size
            self.removed += 1


def fingerprint(module: nn.Module) -> str:
    """A hash of everything that makes a module compute what it computes: structure, configs and tensors.

    Plain attributes that change the outcome but show neither in ``repr(module)`` nor in a ``config`` belong
    in the key beside the fingerprint. The mode is left out: a frozen module is used in evaluation mode.
    """
    configs = {
        name: {key: value for key, value in inner.config.to_dict().items() if key != "_name_or_path"}
        for name, inner in module.named_modules()
        if hasattr(getattr(inner, "config", None), "to_dict")
    }
    parts: list[str | Tensor] = [repr(module), json.dumps(configs, sort_keys=True, default=str)]
    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    for name in sorted(tensors):
        parts += [name, tensors[name]]
    return digest(*parts)


def digest(*parts: str | float | bool | Tensor | None) -> str:
    """A hash of values in their order, 40 hexadecimal digits; tensors count by dtype, shape and bytes."""
    state = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, Tensor):
            head, body = f"{part.dtype}{list(part.shape)}", _bytes(part)
        else:
            head, body = type(part).__name__, memoryview(str(part).encode())
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        state.update(f"{len(head)}:{head}{body.nbytes}:".encode())
        state.update(body)
    return state.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _checksum(value: Mapping[str, Tensor]) -> str:
    """Of names and bytes: safetensors notices a file cut short, but not a changed byte."""
    total = 0
    for name in sorted(value):
        total = zlib.crc32(_bytes(value[name]), zlib.crc32(name.encode(), total))
    return f"{total:08x}"


def _files(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Files two levels down; those that another process removes meanwhile are passed over."""
    for inner in [entry for entry in os.scandir(folder) if entry.is_dir()]:
        for entry in os.scandir(inner):
            try:
                yield Path(entry.path), entry.stat()
            except FileNotFoundError:
                continue
