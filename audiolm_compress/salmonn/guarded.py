"""Folders of others, looked over before a library reads them.

transformers follows whatever a folder says: links, shards under any path, sizes, classes in Python files
beside the config. What it must not follow is refused here, by name and with the reason.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedConfig

from audiolm_compress.errors import AudioLMError, BaselineError, MachineError
from audiolm_compress.faults import out_of_memory
from audiolm_compress.untrusted import OUTSIDE_ALLOWED, escapes, linked_outside, read_json, size_problems

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
# As OUTSIDE_ALLOWED, no key of a recipe: whoever wrote the recipe may be who wrote the code.
CODE_ALLOWED = "AUDIOLM_TRUST_REMOTE_CODE"
_JSON = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_IDS = 2**24  # of tokens; the largest vocabularies have 2**18
_TEXT_TOKENS = 2**16  # that a tokenizer may cut or pad a text to
_PER_BYTE = 2  # parameters in a byte of weights, at most: 4 bit


@contextmanager
def readable(what: str, failure: str = "cannot be loaded") -> Iterator[None]:
    """Turn what is raised on reading ``what`` into a ``BaselineError`` that names it.

    Memory that could not be had is a ``MachineError``: the files may be sound.
    """
    try:
        yield
    except AudioLMError:
        raise
    # tokenizers raises bare Exceptions; what transformers raises depends on where a file is damaged.
    except Exception as error:
        if words := out_of_memory(error):
            raise MachineError(f"{what} cannot be loaded: {words}") from error
        raise BaselineError(f"{what} {failure}: {type(error).__name__}: {error}") from error


def code_if_asked() -> dict[str, Any]:
    """What transformers is told of an LLM's own code: to run it if the user's environment says so."""
    return {"trust_remote_code": os.environ.get(CODE_ALLOWED) == "1"}


def check_folder(source: str | Path, *, may_have_code: bool = False) -> None:
    """Refuse a folder of a model that wants more than to be read.

    Args:
        source: the folder, of transformers or of ours; a hub id, which is none, is left to transformers.
        may_have_code: whether it is one that may come with classes of its own where the user asks for that.

    Raises:
        BaselineError: a link or a shard's path leads out of it, a JSON file of it is damaged or has numbers
            that cannot be meant, or it comes with classes of its own.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    if target := linked_outside(folder):
        raise BaselineError(
            f"{folder}: a symbolic link leads out of the folder: {target}; put the file itself there, or set "
            f"{OUTSIDE_ALLOWED}=1 if the link is yours"
        )
    for name in _JSON:
        if (folder / name).exists():
            check_config(_read(folder / name), folder / name, may_have_code=may_have_code)
    for index in folder.glob("*.index.json"):
        _check_shards(_read(index), index)
    if (folder / "tokenizer.json").exists():
        _check_tokenizer(_read(folder / "tokenizer.json"), folder / "tokenizer.json")


def check_config(config: Any, origin: object, *, may_have_code: bool = False) -> None:
    """Refuse a config with code of its own or with numbers that cannot be meant.

    Args:
        config: content of a JSON file.
        origin: what an error calls it.
        may_have_code: see :func:`check_folder`.

    Raises:
        BaselineError: names all of them.
    """
    if not isinstance(config, Mapping):
        raise BaselineError(f"{origin}: expected an object, found {type(config).__name__}")
    names = sorted(_of_key(config, "auto_map"))
    if names and not (may_have_code and code_if_asked()["trust_remote_code"]):
        asked = f"code of an LLM is run if {CODE_ALLOWED}=1 is set, by those who have read it"
        raise BaselineError(
            f"{origin}: auto_map asks for classes in Python files of the checkpoint ({', '.join(names)}); "
            f"{asked if may_have_code else 'code of a checkpoint is never run'}; take a model whose class "
            "transformers has; remove auto_map"
        )
    if problems := size_problems(config):
        raise BaselineError(f"{origin}: sizes that cannot be meant:\n  " + "\n  ".join(problems))


def check_source(
    source: str, config: PreTrainedConfig, build: Callable[[], nn.Module], *, may_have_code: bool = False
) -> None:
    """Refuse a model of transformers whose config cannot be meant, or that its files cannot hold.

    Args:
        source: its folder, or a hub id.
        config: its config.
        build: gives the module of this config, without weights.
        may_have_code: see :func:`check_folder`.

    Raises:
        BaselineError: see :func:`check_config`; or there are more parameters than bytes for them: what is not
            in the files would be made up, in memory that they do not account for.
    """
    check_config(config.to_dict(), source, may_have_code=may_have_code)
    folder = Path(source)
    if not folder.is_dir():
        return
    with init_empty_weights(include_buffers=False):
        wanted = sum(parameter.numel() for parameter in build().parameters())
    there = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in _WEIGHTS)
    if wanted > _PER_BYTE * there:
        raise BaselineError(
            f"{folder}: its config describes {wanted} parameters, but its weight files have {there} bytes; "
            "take the config and the weights of one model"
        )


def check_archive(path: Path, stored: int, tensors: Iterator[torch.Tensor]) -> None:
    """Refuse tensors that are more than the file that they came from.

    Args:
        path: of the file.
        stored: its size in bytes.
        tensors: of the file.

    Raises:
        BaselineError: a tensor has no bytes or repeats them by strides of 0, or all have more than the file.
    """
    storages: dict[int, int] = {}
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise BaselineError(
                f"{path}: a tensor is {tensor.layout} on {tensor.device}; expected plain tensors"
            )
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if math.prod(tensor.shape) * tensor.element_size() > storage.nbytes():
            raise BaselineError(
                f"{path}: a tensor of shape {list(tensor.shape)} has {storage.nbytes()} bytes; save a copy"
            )
    if sum(storages.values()) > stored:
        raise BaselineError(f"{path}: promises {sum(storages.values())} bytes of tensors, has {stored}")


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise BaselineError(f"{file}: no readable JSON: {error}") from error


def _of_key(node: Any, key: str) -> Iterator[str]:
    """What stands under ``key`` anywhere in a config."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key and value:
                yield from map(str, value if isinstance(value, Mapping) else (key,))
            else:
                yield from _of_key(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _of_key(value, key)


def _check_shards(index: Any, origin: Path) -> None:
    shards = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(shards, Mapping):
        raise BaselineError(f"{origin}: expected an object with 'weight_map'")
    for shard in dict.fromkeys(map(str, shards.values())):
        if reason := escapes(shard):
            raise BaselineError(f"{origin}: shard {shard!r} {reason}; name a file in the folder")


def _check_tokenizer(content: Any, origin: Path) -> None:
    """Numbers that the tokenizers library takes for granted: it would pad to them, or make room for them."""
    if not isinstance(content, Mapping):
        raise BaselineError(f"{origin}: expected an object, found {type(content).__name__}")
    padding, cut, model = (_object(content, name) for name in ("padding", "truncation", "model"))
    asked = [
        ("padding", _object(padding, "strategy").get("Fixed", 0), _TEXT_TOKENS),
        ("padding", padding.get("pad_to_multiple_of") or 0, _TEXT_TOKENS),
        ("truncation", cut.get("stride", 0), _TEXT_TOKENS),
    ]
    ids = _object(model, "vocab").values()
    added = [token.get("id", 0) for token in content.get("added_tokens") or () if isinstance(token, Mapping)]
    asked += [("a token's id", number, _IDS) for number in (*ids, *added)]
    for what, number, most in asked:
        if not isinstance(number, int) or not 0 <= number <= most:
            raise BaselineError(f"{origin}: {what} is {str(number)[:40]}, expected 0 to {most}")


def _object(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, Mapping) else {}
