"""Reading upstream checkpoints: every tensor is placed or the load fails and names it."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from audiolm_compress.errors import BaselineError
from audiolm_compress.salmonn.connector import window_frames
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn


@pytest.fixture
def folder(tmp_path: Path, parity: Path) -> Path:
    """A private copy of the small set."""
    return Path(shutil.copytree(parity / "llama", tmp_path / "llama"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"] |= changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    content = torch.load(folder / "salmonn.pth", weights_only=True)
    change(content["model"])
    torch.save(content, folder / "salmonn.pth")


def refused(folder: Path) -> str:
    with pytest.raises(BaselineError) as error:
        load_model(folder / "config.yaml")
    return str(error.value)


def test_unknown_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update(speech_extra=torch.zeros(3)))
    assert "unknown speech_extra [3]" in refused(folder)


def test_missing_tensors(folder: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["ln_audio.weight"]
        del tensors["llama_model.base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"]

    edit_tensors(folder, drop)
    message = refused(folder)
    assert "missing connector.ln_audio.weight" in message
    assert "missing llm.base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight" in message
    load_model(folder / "config.yaml", allow_missing=True)


def test_wrong_shape(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"speech_llama_proj.bias": torch.zeros(63)}))
    assert "speech_llama_proj.bias has shape [63], but the model's is [64]" in refused(folder)


def test_aliases_that_differ(folder: Path) -> None:
    name = "beats.encoder.layers.2.self_attn.relative_attention_bias.weight"
    edit_tensors(folder, lambda tensors: tensors.update({name: tensors[name] + 1}))
    assert name in refused(folder)


@pytest.mark.parametrize("file", ["salmonn.pth", "beats.pt"])
def test_pickled_code_is_refused_and_not_run(folder: Path, tmp_path: Path, file: str) -> None:
    trace = tmp_path / "executed"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    torch.save({"model": {"x": Malicious()}, "cfg": Malicious()}, folder / file)
    assert file in refused(folder)
    (folder / file).write_bytes(pickle.dumps(Malicious(), protocol=2))
    assert file in refused(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("key", "named"),
    [("whisper_path", "whisper"), ("llama_path", "llm"), ("ckpt", "salmonn"), ("beats_path", "beats")],
)
def test_missing_file_is_named(folder: Path, key: str, named: str) -> None:
    edit_config(folder, **{key: f"no/such/{named}"})
    assert f"no/such/{named}" in refused(folder)


def test_whisper_with_a_missing_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "whisper" / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layers.1.fc1.weight"]
    save_file(tensors, path, {"format": "pt"})
    assert "missing layers.1.fc1.weight" in refused(folder)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("llm/*token*", "tokenizer of LLM"),
        ("whisper/preprocessor_config.json", "feature extractor of Whisper"),
    ],
)
def test_files_beside_the_weights_are_asked_for(folder: Path, pattern: str, what: str) -> None:
    files = list(folder.glob(pattern))
    assert files
    for file in files:
        file.unlink()
    assert what in refused(folder)


def test_unreadable_configs(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="no such file"):
        load_model(tmp_path / "none.yaml")
    with pytest.raises(BaselineError, match="neither 'tiny'"):
        load_model(tmp_path / "none")
    with pytest.raises(BaselineError, match="neither 'tiny'"):
        load_model("../none")
    (tmp_path / "bad.yaml").write_text("model: [")
    with pytest.raises(BaselineError, match="cannot be read"):
        load_model(tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").write_text("run: {}")
    with pytest.raises(BaselineError, match="section 'model'"):
        load_model(tmp_path / "empty.yaml")


def test_dtypes(folder: Path) -> None:
    model = load_model(folder / "config.yaml", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert load_model(folder / "config.yaml").speech_encoder.conv1.weight.dtype == torch.float32


def test_windows_round_half_to_even() -> None:
    assert [window_frames(s) for s in (0.25, 0.333333, 0.35, 0.16)] == [12, 17, 18, 8]


def test_other_windows(folder: Path, clips: list[torch.Tensor]) -> None:
    edit_config(folder, second_per_window=0.25, second_stride=0.2)
    tokens = load_model(folder / "config.yaml").encode_audio(clips)
    assert tokens.embeddings.shape == (2, (1500 - 12) // 10 + 1, 64)


def test_one_window_over_all(folder: Path, clips: list[torch.Tensor]) -> None:
    edit_config(folder, window_level_Qformer=False)
    assert load_model(folder / "config.yaml").encode_audio(clips).embeddings.shape == (2, 1, 64)


def test_without_beats(folder: Path, clips: list[torch.Tensor]) -> None:
    def keep_whisper(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if name.startswith(("beats.", "ln_audio.")):
                del tensors[name]
            elif ".crossattention.self.key.weight" in name or ".crossattention.self.value.weight" in name:
                tensors[name] = tensors[name][:, :64].clone()

    edit_config(folder, beats_path="")
    edit_tensors(folder, keep_whisper)
    model = load_model(folder / "config.yaml")
    assert list(model.parts()) == ["speech_encoder", "connector", "llm"]
    assert model.encode_audio(clips).embeddings.shape == (2, 88, 64)


def test_without_lora(folder: Path) -> None:
    def drop_lora(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".lora_" in name]:
            del tensors[name]

    edit_config(folder, lora=False)
    edit_tensors(folder, drop_lora)
    model: Salmonn = load_model(folder / "config.yaml")
    assert model.llm is model.causal_lm


def test_no_gradients_and_evaluation_mode(folder: Path) -> None:
    model = load_model(folder / "config.yaml")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
