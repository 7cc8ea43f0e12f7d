"""Encoders and connector as ONNX: what the model's own code gives, at every length."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from audiolm_compress.errors import AudioLMError
from audiolm_compress.export import export
from audiolm_compress.export.dense import dense_state, plain_copy
from audiolm_compress.export.graphs import AudioGraph, SpeechGraph
from audiolm_compress.export.onnx import USE, difference, padded_sounds
from audiolm_compress.export.onnx_graph import graph_of, run_file, write_graph
from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.grids import fit_grid, round_to_grid
from audiolm_compress.quantization.low_rank import LowRankLinear
from audiolm_compress.quantization.sinusoids import Sinusoids
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.speech import encode, log_mel

Loader = Callable[..., Salmonn]
LENGTHS = (11_200, 23_457, 90_000)


def noise(*lengths: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=rng) * 0.05 for length in lengths]


def packed(linear: nn.Linear, scheme: Scheme) -> QuantizedLinear:
    grid = fit_grid(linear.weight.detach(), scheme, dtype=torch.float32)
    codes = round_to_grid(linear.weight.detach(), grid, scheme)
    return QuantizedLinear.from_codes(codes, grid, scheme, linear.bias, torch.float32)


def compressed(model: Salmonn) -> Salmonn:
    """Un-padded, fewer layers, 8- and 4-bit layers, a low-rank one of which a factor is packed, 16 bit."""
    model.bucket_seconds = 1.0
    model.merge_lora()
    model.keep_layers("speech_encoder", [0, 2])
    model.keep_layers("audio_encoder", [1])
    for part in ("speech_encoder", "audio_encoder", "connector"):
        linears = [(n, m) for n, m in getattr(model, part).named_modules() if isinstance(m, nn.Linear)]
        for index, (name, linear) in enumerate(linears):
            if linear.in_features % 16 == 0 and index % 2:
                int8 = linear.in_features % 32 == 0 and index % 4 == 1
                layer = Int8Linear.from_linear(linear) if int8 else packed(linear, Scheme(4, 16))
                model.replace_module(f"{part}.{name}", layer)
    name = "speech_encoder.layers.0.fc1"
    factors = LowRankLinear(64, 160, 16)
    for parameter in factors.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    model.replace_module(name, factors)
    model.replace_module(f"{name}.reduce", packed(factors.reduce, Scheme(4, 16)))
    model.replace_module("speech_encoder.embed_positions", Sinusoids(1500, 64))
    model.cast(torch.bfloat16, ("audio_encoder",))
    return model


PACKED = (QuantizedLinear, Int8Linear)


@pytest.mark.parametrize("samples", [16_000, 48_320, 480_000])
def test_spectrogram_is_the_extractors(small_model: Loader, samples: int) -> None:
    """At 30 s nothing but a mirror stands behind the clip, below that silence."""
    model = small_model()
    clips = noise(samples - 100, samples + 50)
    waveforms = torch.stack([nn.functional.pad(clip, (0, 100))[:samples] for clip in clips])
    found = SpeechGraph(model.speech_encoder, model.feature_extractor).features(waveforms)
    expected = log_mel(model.feature_extractor, clips, samples // 320)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("lengths", [LENGTHS[:1], LENGTHS, (150_000, 16_000)])
def test_audio_states_are_those_of_beats(small_model: Loader, lengths: tuple[int, ...]) -> None:
    model = small_model()
    assert model.audio_encoder is not None
    clips = noise(*lengths)
    expected = model.encode_sound(clips)
    with torch.no_grad():
        found = AudioGraph(model.audio_encoder)(*padded_sounds(model, clips).values())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_audio_graph_drops_no_layer_at_random(small_model: Loader) -> None:
    """Neither dropout nor layer drop of a model that does not train."""
    model = small_model()
    assert model.audio_encoder is not None
    model.audio_encoder.config = replace(model.audio_encoder.config, encoder_layerdrop=1.0)
    model.audio_encoder.encoder.config = model.audio_encoder.config
    inputs = padded_sounds(model, noise(16_000)).values()
    expected = model.encode_sound(noise(16_000))
    with torch.no_grad():
        found = AudioGraph(model.audio_encoder)(*inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_connector_file_reads_any_length(small_model: Loader, tmp_path: Path) -> None:
    """Whichever stream is the shorter is padded."""
    model = small_model()
    plain, _ = plain_copy(model.connector)
    said = write_graph(graph_of(model, plain), tmp_path / "connector.onnx")
    assert [one["shape"] for one in said["inputs"]] == [["batch", "frames", 64], ["batch", "tokens", 48]]
    for batch, speech, audio in ((1, 60, 40), (3, 40, 60)):
        states = {
            "speech_states": torch.randn(batch, speech, 64),
            "audio_states": torch.randn(batch, audio, 48),
        }
        expected = model.connector(*states.values())
        assert difference(run_file(tmp_path / "connector.onnx", states), expected) < 1e-5


def test_plain_copies_compute_the_same_with_plain_layers(small_model: Loader) -> None:
    model = compressed(small_model("llama"))
    copied, notes = plain_copy(model.speech_encoder)
    assert not [module for module in copied.modules() if isinstance(module, PACKED)]
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float32}
    assert any("4-bit linear layer" in note for note in notes)
    assert any("8-bit linear layer" in note for note in notes)
    features = torch.randn(1, 80, 100)
    dense = dense_state(model.speech_encoder).tensors
    reference = small_model("llama")
    reference.keep_layers("speech_encoder", [0, 2])
    reference.speech_encoder.load_state_dict(dense)
    torch.testing.assert_close(
        encode(copied, features), encode(reference.speech_encoder, features), atol=1e-5, rtol=0
    )


def test_what_cannot_be_written_is_refused(small_model: Loader, tmp_path: Path) -> None:
    with pytest.raises(AudioLMError, match="--dtype: ONNX files are float32"):  # before anything is loaded
        export(tmp_path / "gone", "onnx", tmp_path / "onnx", dtype=torch.float16)
    model = small_model()
    model.feature_extractor.dither = 0.1
    folder = store.save(model, tmp_path / "dithered")
    with pytest.raises(AudioLMError, match=r"dither 0\.1"):
        export(folder, "onnx", tmp_path / "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dithered"]


@pytest.mark.campaign
@pytest.mark.parametrize("change", ["untouched", "compressed", "without BEATs"])
def test_the_card_gives_the_models_embeddings(small_model: Loader, tmp_path: Path, change: str) -> None:
    """The README's code, run as it stands, against the model of plain weights."""
    model = small_model("llama" if change == "compressed" else "gemma")
    if change == "compressed":
        model = compressed(model)
    if change == "without BEATs":
        model.connector.replace_audio(torch.zeros(48, 0), torch.zeros(48))
        model.set_audio_encoder(None)
    done = export(store.save(model, tmp_path / "model"), "onnx", tmp_path / "onnx")
    assert USE.rstrip() in (done.path / "README.md").read_text()
    space: dict[str, Callable[..., object]] = {}
    exec(USE.replace("PATH OF THIS FOLDER", str(done.path)), space)
    for name in ("speech_encoder", "audio_encoder", "connector"):
        if getattr(model, name) is not None:
            setattr(model, name, plain_copy(getattr(model, name))[0])
    for clip in noise(*LENGTHS, 496_000):
        found = torch.from_numpy(space["embeddings"](clip.numpy()))
        assert difference(found, model.encode_audio([clip]).embeddings) < 1e-3
    said = json.loads((done.path / "onnx.json").read_text())
    assert all(part["max_difference_to_torch"] <= 1e-3 for part in said["parts"].values())
