"""Upstream's layout: what is loaded from it is the model that was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from audiolm_compress.data.example import Example
from audiolm_compress.errors import AudioLMError
from audiolm_compress.export import export
from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.grids import fit_grid, round_to_grid
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.checkpoint import read_checkpoint
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.torch_file import read_torch_file

Loader = Callable[..., Salmonn]


def pack(model: Salmonn, name: str) -> None:
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    scheme, weight = Scheme(4, 16), linear.weight.detach()
    grid = fit_grid(weight, scheme, dtype=torch.float32)
    codes = round_to_grid(weight, grid, scheme)
    layer = QuantizedLinear.from_codes(codes, grid, scheme, linear.bias, torch.float32)
    model.replace_module(name, layer)


@torch.no_grad()
def logits(model: Salmonn, clips: list[torch.Tensor]) -> torch.Tensor:
    return model.logits([Example(f"clip{i}", clip, "asr", "one two three") for i, clip in enumerate(clips)])


@pytest.mark.parametrize("variant", [pytest.param("gemma", marks=pytest.mark.campaign), "llama"])
def test_round_trip_gives_equal_logits(
    small_model: Loader, clips: list[torch.Tensor], tmp_path: Path, parity: Path, variant: str
) -> None:
    model = small_model(variant)
    expected = logits(model, clips)
    done = export(store.save(model, tmp_path / "model"), "upstream", tmp_path / "upstream")
    assert torch.equal(logits(load_model(done.path / "config.yaml"), clips), expected)
    theirs = read_checkpoint(parity / variant / "salmonn.pth")
    ours = read_checkpoint(done.path / "salmonn.pth")
    assert ours.keys() <= theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    section = yaml.safe_load((done.path / "config.yaml").read_text())["model"]
    assert section["lora"] and section["second_per_window"] == 0.34
    assert any("BertConfig" in note for note in done.notes) == (variant == "llama")
    assert any("float16" in note for note in done.notes)
    # Releases of transformers before 5 read these.
    llm = json.loads((done.path / "llm" / "config.json").read_text())
    assert (llm["torch_dtype"], llm["rope_theta"], llm["rope_scaling"]) == ("float32", 10000.0, None)
    tokenizer = json.loads((done.path / "llm" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_compressed_models_become_plain_and_say_so(
    small_model: Loader, clips: list[torch.Tensor], tmp_path: Path
) -> None:
    """Packed layers, layers dropped from every part, deep norm among them; decode settings of a task."""
    model = small_model("llama")
    model.merge_lora()
    for part, kept in (("speech_encoder", [0, 2]), ("audio_encoder", [0, 1]), ("llm", [0, 2])):
        model.keep_layers(part, kept)
    assert model.audio_encoder is not None and model.audio_encoder.config.deep_norm
    for name in ("speech_encoder.layers.0.fc1", "connector.projection", "llm.model.layers.1.mlp.up_proj"):
        pack(model, name)
    pack(model, "audio_encoder.encoder.layers.1.fc2")
    model.decode["asr"] = DecodeSettings(**{**model.decode["default"].model_dump(), "num_beams": 1})
    expected = logits(model, clips)
    done = export(store.save(model, tmp_path / "model"), "upstream", tmp_path / "upstream")
    again = load_model(done.path / "config.yaml")
    assert not again.replaced and again.audio_encoder is not None
    assert again.audio_encoder.config.trained_layers == 2
    torch.testing.assert_close(logits(again, clips), expected, atol=1e-3, rtol=0)
    cfg = read_torch_file(done.path / "beats.pt", {"cfg", "model"})["cfg"]
    assert cfg["encoder_layers"] == 2 and "deep_norm_layers" not in cfg
    said = "\n".join(done.notes)
    for words in ("4-bit linear layer", "deep norm of 3 layers", "task asr", "'num_beams': 1"):
        assert words in said


def test_what_upstream_would_run_otherwise_is_refused(small_model: Loader, tmp_path: Path) -> None:
    model = small_model("llama")
    model.bucket_seconds = 5.0
    folder = store.save(model, tmp_path / "unpadded")
    with pytest.raises(AudioLMError, match="leave unpad_audio out"):
        export(folder, "upstream", tmp_path / "upstream")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unpadded"]
