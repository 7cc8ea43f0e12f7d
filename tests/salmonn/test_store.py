"""Saving and loading our own folders."""

from __future__ import annotations

import json
import shutil
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
