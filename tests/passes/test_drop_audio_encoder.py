"""BEATs removed or replaced: the connector's new weights against plain least squares, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.drop_audio_encoder import DropAudioEncoder, audio_linears
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.recipe import load_recipe
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.beats import Beats, load_beats
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[..., Salmonn]


@pytest.fixture
def other_beats(parity: Path, tmp_path: Path) -> Path:
    """A checkpoint of a narrower, shallower BEATs."""
    torch.manual_seed(1)
    config = dataclasses.replace(
        load_beats(parity / "llama" / "beats.pt").config, encoder_embed_dim=32, encoder_layers=2
    )
    path = tmp_path / "small.pt"
    torch.save({"cfg": config.to_dict(), "model": Beats(config).upstream_state_dict()}, path)
    return path


def audio_frames(model: Salmonn, context: Context, encoder: Beats | None = None) -> Tensor:
    """The audio stream [frames, width] in the windows of all calibration clips, padding included."""
    rows = []
    with torch.no_grad():
        for example in context.calibration:
            old = model.encode_sound([example.waveform])
            joined = model.connector.join(torch.zeros(1, model.frames([len(example.waveform)]), 64), old)
            stream = joined[..., 64:]
            if encoder is not None:
                states = encoder(example.waveform[None]).features
                states = nn.functional.layer_norm(states, states.shape[-1:])
                stream = nn.functional.pad(states, (0, 0, 0, joined.shape[1] - states.shape[1]))
            rows.append(model.connector.qformer.windows(stream).flatten(0, 1))
    return torch.cat(rows).double()


@pytest.mark.parametrize("window", [(17, 17), (20, 10), (0, 0)])
def test_bias_takes_the_mean_of_what_goes(
    small_model: Loader, context: Context, window: tuple[int, int]
) -> None:
    """Windows that overlap count their frames twice, as the connector reads them."""
    model = small_model()
    model.connector.set_windows(*window)
    mean = audio_frames(model, context).mean(0)
    before = {
        name: (linear.weight.clone(), linear.bias.clone()) for name, linear in audio_linears(model).items()
    }
    size = sum(model.weight_bytes().values())
    report = DropAudioEncoder().apply(model, context)
    assert model.audio_encoder is None
    assert model.connector.ln_audio is None
    assert model.connector.config.audio_width == model.connector.qformer.config.audio_width == 0
    for name, linear in audio_linears(model).items():
        weight, bias = before[name]
        assert torch.equal(linear.weight, weight[:, :64])
        assert linear.in_features == 64
        torch.testing.assert_close(
            linear.bias, (bias.double() + weight[:, 64:].double() @ mean).float(), atol=1e-5, rtol=1e-4
        )
    assert report.figures["saved_bytes"] == size - sum(model.weight_bytes().values()) > 0
    assert report.figures["loss_before"] != report.figures["loss_after"]


def test_the_correction_is_better_than_none(small_model: Loader, context: Context) -> None:
    """Nearer to the audio tokens of the whole model."""
    whole, corrected, plain = small_model(), small_model(), small_model()
    DropAudioEncoder().apply(corrected, context)
    width = plain.connector.config.audio_width
    plain.connector.replace_audio(torch.zeros(width, 0), torch.zeros(width))
    plain.set_audio_encoder(None)
    clips = [example.waveform for example in context.calibration[:2]]
    with torch.no_grad():
        expected = whole.encode_audio(clips).embeddings
        errors = [(model.encode_audio(clips).embeddings - expected).norm() for model in (corrected, plain)]
    assert errors[0] < errors[1]


def test_the_same_beats_as_its_own_replacement(
    small_model: Loader, context: Context, clips: list[Tensor], parity: Path
) -> None:
    """The refit finds the affine map of the old LayerNorm."""
    model = small_model()
    with torch.no_grad():
        expected = model.encode_audio(clips).embeddings
    report = DropAudioEncoder(replacement=str(parity / "llama" / "beats.pt")).apply(model, context)
    assert report.figures["residual"] < 1e-3
    assert model.connector.ln_audio is not None
    assert torch.equal(model.connector.ln_audio.weight, torch.ones(48))
    with torch.no_grad():
        found = model.encode_audio(clips).embeddings
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_refit_is_ridge_regression(
    small_model: Loader, context: Context, clips: list[Tensor], other_beats: Path, tmp_path: Path
) -> None:
    """Against least squares on rows that hold the ridge; residuals against what the layers then give."""
    model, new = small_model(), load_beats(other_beats).eval()
    old_rows, new_rows = audio_frames(model, context), audio_frames(model, context, new)
    centred_old, centred_new = old_rows - old_rows.mean(0), new_rows - new_rows.mean(0)
    damping = (1e-3 * len(new_rows) * centred_new.square().mean()).sqrt()
    mapping = torch.linalg.lstsq(
        torch.cat((centred_new, damping * torch.eye(32, dtype=torch.float64))),
        torch.cat((centred_old, torch.zeros(32, 48, dtype=torch.float64))),
    ).solution
    before = {
        name: (linear.weight.double(), linear.bias.double()) for name, linear in audio_linears(model).items()
    }
    report = DropAudioEncoder(replacement=str(other_beats)).apply(model, context)
    residuals = {row["name"]: row["residual"] for row in report.modules}
    for name, linear in audio_linears(model).items():
        weight, bias = before[name]
        assert linear.weight.shape[1] == linear.in_features == 64 + 32
        assert torch.equal(linear.weight[:, :64].double(), weight[:, :64])
        expected = weight[:, 64:] @ mapping.T
        torch.testing.assert_close(linear.weight[:, 64:].double(), expected, atol=1e-4, rtol=1e-3)
        wanted = old_rows @ weight[:, 64:].T + bias
        found = new_rows @ linear.weight[:, 64:].double().T + linear.bias.double()
        share = (wanted - found).square().sum() / (wanted - wanted.mean(0)).square().sum()
        assert residuals[name] == pytest.approx(share.item(), rel=1e-2)
        assert 0 < residuals[name] < 1
    again = load_model(store.save(model, tmp_path / "model"))
    assert again.audio_encoder is not None and len(again.audio_encoder.encoder.layers) == 2
    with torch.inference_mode():
        assert torch.equal(again.encode_audio(clips).embeddings, model.encode_audio(clips).embeddings)


def test_after_quantising_the_audio_encoder(
    small_model: Loader, context: Context, clips: list[Tensor], tmp_path: Path
) -> None:
    """What had been replaced in BEATs is forgotten, so that the folder loads."""
    model = small_model()
    Gptq.model_validate({"parts": ["audio_encoder"], "bits": 8, "group_size": -1}).apply(model, context)
    assert model.replaced
    DropAudioEncoder().apply(model, context)
    assert not model.replaced
    again = load_model(store.save(model, tmp_path / "model"))
    assert again.generate(clips) == model.generate(clips)


def test_quantised_connector_is_refused(small_model: Loader, context: Context) -> None:
    model = small_model()
    Gptq.model_validate({"parts": ["connector"], "bits": 8, "group_size": -1}).apply(model, context)
    with pytest.raises(PassError, match=r"key is a QuantizedLinear.*put drop_audio_encoder before"):
        DropAudioEncoder().apply(model, context)
    assert model.audio_encoder is not None


def test_without_an_audio_encoder(small_model: Loader, context: Context, other_beats: Path) -> None:
    model = small_model()
    DropAudioEncoder().apply(model, context)
    assert not DropAudioEncoder().apply(model, context).changed
    with pytest.raises(PassError, match="no audio encoder, so nothing says"):
        DropAudioEncoder(replacement=str(other_beats)).apply(model, context)


def test_replacements_that_do_not_fit(
    small_model: Loader, context: Context, other_beats: Path, tmp_path: Path
) -> None:
    checkpoint = torch.load(other_beats, weights_only=True)
    other = Beats(dataclasses.replace(load_beats(other_beats).config, input_patch_size=32))
    torch.save({"cfg": other.config.to_dict(), "model": other.upstream_state_dict()}, tmp_path / "patch.pt")
    torch.save({"model": checkpoint["model"]}, tmp_path / "bare.pt")
    for name, message in (
        ("patch.pt", "patches of 32, but the model's BEATs of 16"),
        ("bare.pt", "needs the entries cfg, model"),
    ):
        model = small_model()
        with pytest.raises(PassError, match=message):
            DropAudioEncoder(replacement=str(tmp_path / name)).apply(model, context)
        assert model.connector.config.audio_width == 48


def test_paths_start_at_the_recipe(other_beats: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("passes:\n  - {pass: drop_audio_encoder, replacement: small.pt}\n")
    (entry,) = load_recipe(recipe).passes
    assert isinstance(entry, DropAudioEncoder)
    assert entry.replacement == str(other_beats)
    with pytest.raises(ValidationError, match="no such file"):
        DropAudioEncoder(replacement="nowhere.pt")
