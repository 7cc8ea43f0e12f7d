"""Saving and loading our own folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiolm_compress.errors import AudioLMError, BaselineError
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[..., Salmonn]


@pytest.mark.parametrize("variant", ["gemma", "llama"])
@pytest.mark.parametrize("merged", [False, True])
def test_round_trip_is_exact(
    small_model: Loader, clips: list[torch.Tensor], tmp_path: Path, variant: str, merged: bool
) -> None:
    model = small_model(variant)
    if merged:
        model.merge_lora()
    folder = store.save(model, tmp_path / "made" / "model")
    again = load_model(folder)
    assert again.weight_bytes() == model.weight_bytes()
    with torch.inference_mode():
        before, after = model.prepare(clips), again.prepare(clips)
        assert torch.equal(before.embeds, after.embeds)
        assert torch.equal(model.score(before), again.score(after))
    assert model.generate(clips) == again.generate(clips)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_tied_weights_are_stored_once_and_stay_tied(small_model: Loader, tmp_path: Path) -> None:
    folder = store.save(small_model("gemma"), tmp_path / "model")
    names = [
        name for name in load_file(folder / store.WEIGHTS) if "embed_tokens" in name or "lm_head" in name
    ]
    assert len(names) == 1
    llm = load_model(folder).causal_lm
    assert llm.get_input_embeddings().weight is llm.get_output_embeddings().weight


def test_weights_are_written_from_where_they_are(small_model: Loader) -> None:
    """A copy of each would take the memory of a second model."""
    model = small_model("gemma")
    tensors, aliases = store._unique(model.state_dict())
    assert aliases
    for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        if name in tensors and tensor.is_contiguous():
            assert tensors[name].data_ptr() == tensor.data_ptr(), name


def test_tensors_that_lie_over_each_other_are_told_apart(tmp_path: Path) -> None:
    square = torch.arange(36.0).reshape(6, 6)
    state = {
        "whole": square,
        "same": square,
        "turned": square.T,  # of the same address and shape
        "part": square[2:4],
        "column": square[:, 1],
        "first": square[0],
        "spread": torch.ones(1).expand(5),
        "bits": square.view(torch.int32),
        "empty": torch.empty(0),
    }
    tensors, aliases = store._unique(state)
    assert aliases == {"same": "whole"}
    assert tensors["whole"].data_ptr() == square.data_ptr()
    save_file(tensors, tmp_path / "tensors.safetensors")
    read = load_file(tmp_path / "tensors.safetensors")
    assert read.keys() | aliases.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in read.items())


SAVED = """
import gc, json, sys, torch
from audiolm_compress.measurement.memory import _peak_resident, _reset_peak_resident, _resident
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model

model = load_model(sys.argv[1])
store.save(model, sys.argv[2])  # what libraries set up at first use
for size in (2**28, 2**30):
    model.connector.register_parameter("large", torch.nn.Parameter(torch.zeros(size // 4 // 2**20, 2**20)))
    model.connector.large.data.normal_()
    gc.collect()
    assert _reset_peak_resident()
    before = _resident()
    store.save(model, sys.argv[2])
    print(json.dumps([sum(model.weight_bytes().values()), before, _peak_resident() - before]))
"""


@pytest.mark.campaign
def test_saving_takes_no_second_model(tmp_path: Path, parity: Path) -> None:
    """A model of 256 MiB and one of 1 GiB, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", SAVED, str(parity / "llama" / "config.yaml"), str(tmp_path / "model")],
        capture_output=True,
        text=True,
        check=True,
    )
    saves = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(saves) == 2
    for size, before, above in saves:
        assert before > size > 2**28, "the weights are in memory of their own"
        assert above < 2**25


def test_storage_dtype_does_not_change_the_loaded_one(small_model: Loader, tmp_path: Path) -> None:
    model = small_model()
    folder = store.save(model, tmp_path / "model", storage={"speech_encoder": torch.float16})
    assert load_file(folder / store.WEIGHTS)["speech_encoder.conv1.weight"].dtype == torch.float16
    loaded = load_model(folder).speech_encoder.conv1.weight
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded, model.speech_encoder.conv1.weight, atol=1e-3, rtol=1e-3)


def test_an_error_leaves_nothing(
    small_model: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    folder = store.save(model, tmp_path / "model")
    kept = (folder / store.WEIGHTS).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        store.save(model, folder)
    assert (folder / store.WEIGHTS).read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_foreign_folders_are_left_alone(small_model: Loader, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(AudioLMError, match="left alone"):
        store.save(small_model(), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "three years"
    with pytest.raises(BaselineError, match="no model folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "truncated", "prompts", "aliases"])
def test_damage_is_named(small_model: Loader, tmp_path: Path, damage: str) -> None:
    folder = store.save(small_model(), tmp_path / "model")
    weights = folder / store.WEIGHTS
    tensors = load_file(weights)
    name = "connector.ln_speech.weight"
    if damage == "missing":
        del tensors[name]
    elif damage == "unknown":
        tensors["connector.extra"] = torch.zeros(1)
    elif damage == "shape":
        tensors[name] = torch.zeros(3)
    save_file(tensors, weights)
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    if damage in ("prompts", "aliases"):
        config = json.loads((folder / store.CONFIG).read_text())
        del config[damage]
        (folder / store.CONFIG).write_text(json.dumps(config))
    expected = {
        "missing": f"missing {name}",
        "unknown": "unknown connector.extra",
        "shape": f"{name} has shape \\[3\\], expected \\[64\\]",
        "truncated": "damaged",
        "prompts": "damaged: KeyError: 'prompts'",
        "aliases": "damaged: KeyError: 'aliases'",
    }[damage]
    with pytest.raises(BaselineError, match=expected):
        load_model(folder)


def test_a_folder_works_elsewhere_without_its_origin(
    small_model: Loader, clips: list[torch.Tensor], tmp_path: Path
) -> None:
    model = small_model("gemma")
    folder = store.save(model, tmp_path / "here")
    elsewhere = Path(shutil.move(folder, tmp_path / "there"))
    assert load_model(elsewhere).generate(clips, task="audiocaption") == model.generate(
        clips, task="audiocaption"
    )
