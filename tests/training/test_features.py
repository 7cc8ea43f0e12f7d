"""The cache of features: right values whatever happens to its files, within its size, shared by processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import audiolm_compress
from audiolm_compress.errors import DataError
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.training import FeatureCache, digest, fingerprint

VALUE = 4096  # bytes of the tensors that the tests store


def value(number: int) -> dict[str, Tensor]:
    return {"states": torch.full((VALUE // 4,), float(number))}


def store(cache: FeatureCache, number: int) -> dict[str, Tensor]:
    return cache.get(digest(number), lambda: value(number))


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def unwanted() -> dict[str, Tensor]:
    raise AssertionError("the value is in the cache")


def test_what_is_read_is_what_was_computed(tmp_path: Path) -> None:
    kinds = {
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "strided": torch.randn(4, 6).T,
        "whole": torch.arange(5),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 7),
        "learned": torch.randn(2, requires_grad=True) * 2,
    }
    kinds["same memory"] = kinds["strided"][:2]
    computed = FeatureCache(tmp_path, 10**6).get("ab12", lambda: kinds)
    found = FeatureCache(tmp_path, 10**6).get("ab12", unwanted)
    for name, tensor in kinds.items():
        for result in (computed[name], found[name]):
            assert result.dtype == tensor.dtype
            assert torch.equal(result, tensor)
            assert result.is_contiguous()
            assert not result.requires_grad


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_damaged_files_are_computed_anew_and_counted(tmp_path: Path, damage: str) -> None:
    store(FeatureCache(tmp_path, 10**6), 1)
    (file,) = stored(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    file.write_bytes({"cut": content[:-10], "flipped": content, "empty": b"", "text": b"no tensors"}[damage])
    cache = FeatureCache(tmp_path, 10**6)
    assert torch.equal(store(cache, 1)["states"], value(1)["states"])
    assert (cache.damaged, cache.computed, cache.found) == (1, 1, 0)
    store(cache, 1)
    assert (cache.damaged, cache.found) == (1, 1)
    assert "1 damaged" in cache.summary()


def test_least_recently_used_values_make_room(tmp_path: Path) -> None:
    limit = 5 * (VALUE + 200)
    cache = FeatureCache(tmp_path, limit)
    for number in range(5):
        store(cache, number)
        for file in stored(tmp_path):  # every file one minute older, so that clocks do not matter
            os.utime(file, (file.stat().st_mtime - 60,) * 2)
    assert cache.removed == 0
    store(cache, 0)  # used, so 1 is now the oldest
    store(cache, 5)
    assert sum(file.stat().st_size for file in stored(tmp_path)) <= limit
    assert cache.removed >= 1
    store(cache, 0)
    assert cache.found == 2
    computed = cache.computed
    store(cache, 1)
    assert cache.computed == computed + 1


def test_limit_holds_for_what_others_have_left(tmp_path: Path) -> None:
    roomy = FeatureCache(tmp_path, 10**6)
    for number in range(10):
        store(roomy, number)
    small = FeatureCache(tmp_path, 3 * (VALUE + 200))
    assert sum(file.stat().st_size for file in stored(tmp_path)) <= small.limit_bytes
    assert small.removed >= 7


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_others_of_a_shared_folder_can_read_the_values(tmp_path: Path) -> None:
    store(FeatureCache(tmp_path / "cache", 10**6), 1)
    (tmp_path / "plain").touch()
    (file,) = stored(tmp_path)
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(DataError, match=r"taken cannot be made .*; name another folder"):
        FeatureCache(tmp_path / "taken", 10**6)


def test_a_value_that_does_not_fit_is_computed_and_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, VALUE - 1)
    assert torch.equal(store(cache, 1)["states"], value(1)["states"])
    assert stored(tmp_path) == []
    assert cache.too_large == 1


def test_unfinished_files_of_killed_processes_go(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    old, new = tmp_path / "ab" / ".ab1.x.partial", tmp_path / "ab" / ".ab2.y.partial"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 86400,) * 2)
    FeatureCache(tmp_path, 10**6)
    assert not old.exists()
    assert new.exists()


SHARING = """
import sys, torch
from audiolm_compress.training.features import FeatureCache, digest
cache = FeatureCache(sys.argv[1], 10 * 4300)  # holds half of the values
for number in torch.randperm(400, generator=torch.Generator().manual_seed(int(sys.argv[2]))).tolist():
    value = {"states": torch.full((1024,), float(number % 20))}
    assert torch.equal(cache.get(digest(number % 20), lambda: value)["states"], value["states"])
assert cache.damaged == 0
"""


@pytest.mark.slow
def test_processes_share_a_folder(tmp_path: Path) -> None:
    root = str(Path(audiolm_compress.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", SHARING, str(tmp_path)]
    workers = [subprocess.Popen([*program, str(seed)], env=environment) for seed in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert stored(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


def test_digest_tells_values_apart() -> None:
    zeros = torch.zeros(4)
    different: list[tuple[str | float | bool | Tensor | None, ...]] = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (1,),
        ("1",),
        (1.0,),
        (True,),
        (None,),
        (zeros,),
        (zeros.reshape(2, 2),),
        (zeros.int(),),
        (torch.tensor([0.0, 0.0, 0.0, 1.0]),),
        (zeros, zeros),
    ]
    assert len({digest(*parts) for parts in different}) == len(different)
    assert digest("a", zeros) == digest("a", zeros.clone())


def test_fingerprint_sees_weights_and_configs(small_model: Callable[[], Salmonn]) -> None:
    first, second = small_model(), small_model()
    assert fingerprint(first) == fingerprint(second)
    with torch.no_grad():
        second.speech_encoder.layers[0].fc1.bias[0] += 1e-6
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first.llm) == fingerprint(second.llm)
    second.causal_lm.config.rms_norm_eps *= 2
    assert fingerprint(first.llm) != fingerprint(second.llm)
    assert fingerprint(nn.GELU()) != fingerprint(nn.GELU(approximate="tanh"))
