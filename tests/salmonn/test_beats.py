"""BEATs against arrays of the upstream code (tests/fixtures/upstream_parity), and its own promises."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from audiolm_compress.errors import BaselineError, DataError
from audiolm_compress.salmonn.beats import Beats, load_beats
from audiolm_compress.salmonn.beats_layers import BeatsConfig
from audiolm_compress.salmonn.fbank import beats_fbank, frame_count, kaldi_fbank

PARITY = Path(__file__).parents[1] / "fixtures" / "upstream_parity"
FINETUNED = PARITY / "beats_finetuned"
FBANK_TOLERANCE = 1e-4
FEATURE_TOLERANCE = 1e-4
SMALL = BeatsConfig(
    input_patch_size=16,
    embed_dim=24,
    encoder_layers=2,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    relative_position_embedding=True,
    gru_rel_pos=True,
    deep_norm=True,
)


def read_clip(folder: Path, name: str) -> Tensor:
    samples, rate = soundfile.read(folder / "audio" / name)
    assert rate == 16_000
    return torch.from_numpy(samples)[None]


def padded_batch(folder: Path) -> tuple[Tensor, Tensor]:
    long, short = read_clip(folder, "clip0.wav"), read_clip(folder, "clip1.wav")
    missing = long.shape[1] - short.shape[1]
    mask = torch.zeros(2, long.shape[1], dtype=torch.bool)
    mask[1, short.shape[1] :] = True
    return torch.cat([long, nn.functional.pad(short, (0, missing))]), mask


def assert_near(actual: Tensor, expected: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=0.0, atol=tolerance)


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    with np.load(FINETUNED / "beats_outputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def finetuned() -> Beats:
    return load_beats(FINETUNED / "beats.pt").eval()


def random_beats(config: BeatsConfig) -> Beats:
    torch.manual_seed(0)
    return Beats(config).eval()


def noise(seconds: float, batch: int = 1) -> Tensor:
    return 0.1 * torch.randn(batch, int(seconds * 16_000), generator=torch.Generator().manual_seed(1))


def test_fbank_is_upstreams(outputs: dict[str, np.ndarray]) -> None:
    assert_near(beats_fbank(padded_batch(FINETUNED)[0]), outputs["fbank_normalised"], FBANK_TOLERANCE)


@torch.no_grad()
def test_features_and_masks_are_upstreams(finetuned: Beats, outputs: dict[str, np.ndarray]) -> None:
    waveforms, mask = padded_batch(FINETUNED)
    result = finetuned(waveforms, mask)
    assert_near(result.features, outputs["features"], FEATURE_TOLERANCE)
    assert np.array_equal(result.padding_mask, outputs["features_padding_mask"])
    alone = read_clip(FINETUNED, "clip1.wav")
    unmasked = finetuned(alone)
    assert unmasked.padding_mask is None
    assert_near(unmasked.features, outputs["clip1_features_nomask"], FEATURE_TOLERANCE)
    zero_mask = finetuned(alone, torch.zeros_like(alone, dtype=torch.bool))
    assert_near(zero_mask.features, outputs["clip1_features_zeromask"], FEATURE_TOLERANCE)


@torch.no_grad()
def test_class_probabilities_are_upstreams(finetuned: Beats, outputs: dict[str, np.ndarray]) -> None:
    assert_near(finetuned.classify(*padded_batch(FINETUNED)), outputs["class_probs"], 1e-5)
    alone = finetuned.classify(read_clip(FINETUNED, "clip1.wav"))
    assert_near(alone, outputs["clip1_class_probs_nomask"], 1e-5)


@torch.no_grad()
def test_31_seconds_reach_beyond_the_largest_distance(finetuned: Beats) -> None:
    random = np.random.RandomState(5)
    t = np.arange(31 * 16_000) / 16_000
    signal = 0.3 * np.sin(2 * np.pi * (200 + 90 * t) * t) + 0.05 * random.standard_normal(t.size)
    waveform = np.round(signal * 8000) / 32_768
    with np.load(FINETUNED / "beats_long.npz") as expected:
        assert np.allclose(waveform[:1000], expected["wav_first_1000"], atol=1e-7)
        features = finetuned(torch.from_numpy(waveform)[None]).features
        assert features.shape[1] == expected["n_features"]
        assert_near(features[:, ::8], expected["features_every_8th"], FEATURE_TOLERANCE)


@pytest.mark.parametrize("family", ["gemma", "llama"])
@torch.no_grad()
def test_encoders_of_whole_models_are_upstreams(family: str) -> None:
    folder = PARITY / family
    model = load_beats(folder / "beats.pt").eval()
    waveforms, mask = padded_batch(folder)
    with np.load(folder / "encoders.npz") as expected:
        assert_near(beats_fbank(waveforms[1:]), expected["beats_fbank_normalised"], FBANK_TOLERANCE)
        batch = model(waveforms.float(), mask)
        assert_near(batch.features, expected["beats_features"], FEATURE_TOLERANCE)
        assert np.array_equal(batch.padding_mask, expected["beats_padding_mask"])
        alone = read_clip(folder, "clip1.wav").float()
        single = model(alone, torch.zeros_like(alone, dtype=torch.bool))
        assert_near(single.features, expected["clip1_beats_features"], FEATURE_TOLERANCE)
        assert np.array_equal(single.padding_mask, expected["clip1_beats_padding_mask"])


def test_config_round_trip_and_unknown_entries() -> None:
    values = json.loads((FINETUNED / "beats_cfg.json").read_text())
    config = BeatsConfig.from_dict(values | {"codebook": 1024})
    assert config == BeatsConfig.from_dict(config.to_dict())
    assert values.items() <= config.to_dict().items()


@pytest.mark.parametrize(
    "change",
    [
        {"input_patch_size": -1},
        {"encoder_attention_heads": 5},
        {"conv_pos_groups": 7},
        {"activation_fn": "glu"},
    ],
)
def test_impossible_configurations_are_named(change: dict[str, int | str]) -> None:
    with pytest.raises(BaselineError, match=next(iter(change))):
        Beats(BeatsConfig.from_dict(SMALL.to_dict() | change))


@pytest.mark.parametrize("layer_norm_first", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("relative", [False, True])
@torch.no_grad()
def test_what_lies_under_the_mask_is_not_seen(layer_norm_first: bool, gated: bool, relative: bool) -> None:
    config = dataclasses.replace(
        SMALL, layer_norm_first=layer_norm_first, gru_rel_pos=gated, relative_position_embedding=relative
    )
    model = random_beats(config)
    mask = torch.arange(32_000)[None] >= 16_000
    waveform = noise(2.0)
    # The last valid token may share its patch with padding, so the change begins one patch later.
    changed = torch.cat([waveform[:, :19_200], torch.ones(1, 12_800)], dim=1)
    output, other = model(waveform, mask), model(changed, mask)
    valid = ~output.padding_mask
    assert valid.any() and not valid.all()
    torch.testing.assert_close(other.features[valid], output.features[valid])
    assert not torch.allclose(model(changed).features[valid], output.features[valid])


@torch.no_grad()
def test_attention_is_the_written_out_formula() -> None:
    """Against softmax attention in plain operations, gate and bucket table included."""
    attention = random_beats(SMALL).encoder.layers[0].self_attn
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 9, 32, generator=generator)
    table = torch.randn(4, 9, 9, generator=generator)
    q, k, v = (
        p(x).view(2, 9, 4, 8).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    a, b = attention.grep_linear(q).view(2, 4, 9, 2, 4).sum(-1).sigmoid().unbind(-1)
    gate = a * (b * attention.grep_a[..., 0] - 1) + 2
    weights = (q @ k.mT / 8**0.5 + gate[..., None] * table).softmax(-1)
    expected = attention.out_proj((weights @ v).transpose(1, 2).reshape(2, 9, 32))
    torch.testing.assert_close(attention(x, table, None), expected)


@torch.no_grad()
def test_first_layer_can_be_dropped() -> None:
    """The relative-position table outlives layer 0; the residual scale stays that of the trained depth."""
    model = random_beats(SMALL)
    full = model(noise(1.0)).features
    scale = model.encoder.layers[1].residual_scale
    model.encoder.layers = nn.ModuleList([model.encoder.layers[1]])
    cut = model(noise(1.0)).features
    assert not torch.allclose(full, cut)
    assert model.encoder.layers[0].residual_scale == scale == (2 * 2) ** 0.25
    again = random_beats(SMALL)
    again.encoder.layers = nn.ModuleList([again.encoder.layers[0]])
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(noise(1.0)).features, cut)


def test_upstream_state_dict_loads_strictly_and_shares_the_table(tmp_path: Path) -> None:
    model = random_beats(SMALL)
    state = model.upstream_state_dict()
    names = [name for name in state if "relative_attention_bias" in name]
    assert names == [f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in range(2)]
    other = Beats(SMALL)
    other.load_state_dict(state, strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    state[names[1]] = state[names[1]] + 1
    with pytest.raises(BaselineError, match=r"layers\.1\.self_attn.*differs"):
        other.load_state_dict(state)


def test_every_wrong_tensor_is_named(tmp_path: Path) -> None:
    state = random_beats(SMALL).upstream_state_dict()
    del state["layer_norm.bias"]
    state["encoder.layers.0.fc1.weight"] = torch.zeros(3, 3)
    state["surplus"] = torch.zeros(1)
    torch.save({"cfg": SMALL.to_dict(), "model": state}, tmp_path / "beats.pt")
    with pytest.raises(BaselineError) as caught:
        load_beats(tmp_path / "beats.pt")
    for part in (
        "missing layer_norm.bias",
        "unknown surplus",
        "encoder.layers.0.fc1.weight has shape [3, 3]",
    ):
        assert part in str(caught.value)


class Malicious:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


@pytest.mark.parametrize("content", [Malicious(), {"cfg": {}, "model": Malicious()}, {"model": {}}, [1]])
def test_anything_but_a_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "beats.pt")
    with pytest.raises(BaselineError, match=r"beats\.pt"):
        load_beats(tmp_path / "beats.pt")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"absent\.pt"):
        load_beats(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(BaselineError, match=r"text\.pt"):
        load_beats(tmp_path / "text.pt")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_close(finetuned: Beats, dtype: torch.dtype) -> None:
    waveforms, mask = padded_batch(FINETUNED)
    exact = finetuned(waveforms, mask).features
    half = load_beats(FINETUNED / "beats.pt").eval().to(dtype)
    rounded = half(waveforms, mask).features
    assert rounded.dtype == dtype
    assert (rounded.float() - exact).pow(2).mean() < 2e-3 * exact.pow(2).mean()


def test_gradients_reach_every_parameter() -> None:
    config = dataclasses.replace(
        SMALL, encoder_layerdrop=0.0, layer_wise_gradient_decay_ratio=0.5, dropout=0.1
    )
    model = random_beats(config).train()
    with torch.inference_mode():
        model(noise(0.4))  # caches filled in inference mode must not poison training
    model(noise(0.4, batch=2)).features.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_too_short_audio_is_refused() -> None:
    assert frame_count(400) == 1 and frame_count(399) == 0
    with pytest.raises(DataError, match="400 samples"):
        kaldi_fbank(torch.zeros(1, 399))
    with pytest.raises(DataError, match="2800 samples"):
        random_beats(SMALL)(torch.zeros(1, 2799))
    assert random_beats(SMALL)(torch.zeros(1, 2800)).features.shape == (1, 8, 32)
