"""What readers of GPTQ checkpoints ask of an exported one, as far as that can be tried without them.

vLLM's rules are those of its ``model_executor/layers/quantization``: ``gptq_marlin.py`` (commit 0ede9ef),
``utils/gptq_utils.py`` (02239f5) and ``gptq.py``, which reads ``gptq_v2`` since pull request 26092.
GPTQModel's are those of ``models/loader.py`` and ``nn_modules/qlinear`` of 7.4; ``test_gptqmodel.py`` opens
checkpoints with it where it is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from audiolm_compress.export import export
from audiolm_compress.export.gptq import JOINED, Settings, exceptions
from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn

Rounded = Callable[..., Salmonn]
COMMON = Settings(4, 32, True)
BLOCK = "model.layers.0"
NAMES = [f"{BLOCK}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
NAMES += [f"{BLOCK}.mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")]


def found_by_vllm(dynamic: dict[str, dict[str, Any]], name: str) -> dict[str, Any] | bool | None:
    """The first pattern that matches counts: ``get_dynamic_override`` of ``gptq_utils.py``."""
    for pattern, values in dynamic.items():
        if re.match(pattern[2:], name):
            return False if pattern.startswith("-:") else values
    return None


@pytest.mark.parametrize(("variant", "symmetric"), [("gemma", False), ("llama", True)])
def test_the_config_has_the_fields_and_values_that_loaders_require(
    rounded: Rounded, tmp_path: Path, variant: str, symmetric: bool
) -> None:
    model = rounded(variant, Scheme(4, 32, symmetric))
    done = export(store.save(model, tmp_path / "model"), "gptq", tmp_path / "gptq")
    said = json.loads((done.path / "config.json").read_text())["quantization_config"]
    # GPTQMarlinConfig.from_config takes bits, group_size, desc_act and sym with get_from_keys, which
    # raises where one is missing; lm_head and dynamic are optional.
    assert {key: said[key] for key in ("bits", "group_size", "desc_act", "sym", "lm_head")} == {
        "bits": 4,
        "group_size": 32,
        "desc_act": False,
        "sym": symmetric,
        "lm_head": False,
    }
    assert said["quant_method"] == "gptq"
    # GPTQModel refuses sym: false with version 1 of another producer.
    assert said["checkpoint_format"] == said["format"] == ("gptq" if symmetric else "gptq_v2")
    assert said["pack_dtype"] == "int32"
    assert any("gptq_v2" in note for note in done.notes) != symmetric


def test_tensors_have_the_names_shapes_and_types_that_loaders_allocate(
    rounded: Rounded, tmp_path: Path
) -> None:
    """Those of ``GPTQLinearMethod.create_weights``; its float16-only kernels take scales of that type."""
    model = rounded("llama", Scheme(4, 32), Scheme(3, 16, symmetric=False))
    out = tmp_path / "gptq"
    export(store.save(model, tmp_path / "model"), "gptq", out, dtype=torch.float16)
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    sizes = {
        name: (one.in_features, one.out_features)
        for name, one in model.causal_lm.named_modules()
        if isinstance(one, QuantizedLinear)
    }
    packed = 0
    with safe_open(out / "model.safetensors", "pt") as file:
        stored = set(file.keys())
        for name, (inputs, outputs) in sizes.items():
            values = found_by_vllm(said["dynamic"], name)
            if values is False:
                assert f"{name}.weight" in stored
                assert not stored & {f"{name}.{key}" for key in ("qweight", "qzeros", "scales", "g_idx")}
                continue
            own = said | (values or {})
            groups = inputs // own["group_size"]
            expected = {
                "qweight": ([inputs * own["bits"] // 32, outputs], "I32"),
                "qzeros": ([groups, outputs * own["bits"] // 32], "I32"),
                "scales": ([groups, outputs], "F16"),
                "g_idx": ([inputs], "I32"),
            }
            for key, (shape, dtype) in expected.items():
                part = file.get_slice(f"{name}.{key}")
                assert (part.get_shape(), part.get_dtype()) == (shape, dtype)
            assert f"{name}.weight" not in stored
            packed += 1
    assert packed > 2


@pytest.mark.parametrize("joined", JOINED)
@pytest.mark.parametrize("own", [Settings(8, -1, True), None], ids=["other", "plain"])
def test_layers_that_vllm_joins_are_found_by_their_common_name(joined: str, own: Settings | None) -> None:
    members = JOINED[joined]
    expected = False if own is None else own._asdict()
    settings: dict[str, Settings | None] = {name: own if name.endswith(members) else COMMON for name in NAMES}
    dynamic = exceptions(settings, COMMON)
    [parent] = {name.rpartition(".")[0] for name in NAMES if name.endswith(members)}
    assert found_by_vllm(dynamic, f"{parent}.{joined}") == expected
    for name in NAMES:
        assert found_by_vllm(dynamic, name) == (expected if name.endswith(members) else None)


def test_layers_of_which_one_differs_have_no_common_name() -> None:
    settings: dict[str, Settings | None] = {
        name: Settings(8, 32, True) if name.endswith("v_proj") else COMMON for name in NAMES
    }
    dynamic = exceptions(settings, COMMON)
    assert [found_by_vllm(dynamic, name) for name in NAMES].count(None) == len(NAMES) - 1
    assert found_by_vllm(dynamic, f"{BLOCK}.self_attn.qkv_proj") is None


def test_a_name_is_no_pattern_of_other_names() -> None:
    settings: dict[str, Settings | None] = {
        f"model.layers.{index}.self_attn.o_proj": COMMON for index in range(12)
    }
    settings["model.layers.1.self_attn.o_proj"] = Settings(8, 32, True)
    dynamic = exceptions(settings, COMMON)
    found = [name for name in settings if found_by_vllm(dynamic, name)]
    assert found == ["model.layers.1.self_attn.o_proj"]


def test_what_vllm_will_refuse_is_said(rounded: Rounded, tmp_path: Path) -> None:
    unlike = rounded("gemma", Scheme(4, 32), Scheme(8, 32))
    done = export(store.save(unlike, tmp_path / "unlike"), "gptq", tmp_path / "gptq")
    assert any(
        "vLLM will refuse" in note and "model.layers.0.self_attn.qkv_proj" in note for note in done.notes
    )
    alike = rounded("gemma", Scheme(3, 32))
    done = export(store.save(alike, tmp_path / "alike"), "gptq", tmp_path / "gptq3")
    assert not any("vLLM will refuse" in note for note in done.notes)
    assert any("float16 only" in note for note in done.notes)
