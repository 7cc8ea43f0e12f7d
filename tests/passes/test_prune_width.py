"""Narrower layers against masked whole ones, planted importance, fitted readers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.merge_lora import MergeLora
from audiolm_compress.passes.prune_width import PruneWidth
from audiolm_compress.passes.quantize_embedding import QuantizeEmbedding
from audiolm_compress.planning.layers import layers_of
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.pruning.groups import columns
from audiolm_compress.pruning.inner import Inner, read_attention, read_ffn
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model
from audiolm_compress.salmonn.widths import head_dim, llm_config
from audiolm_compress.salmonn.wrapping import IGNORED

Loader = Callable[..., Salmonn]
PARTS = ["speech_encoder", "audio_encoder", "llm"]


@pytest.fixture
def two(context: Context) -> Context:
    """Two clips, one of each task."""
    return replace(context, calibration=context.calibration[:2])


@pytest.fixture
def merged(small_model: Loader) -> Loader:
    def load(variant: str = "llama") -> Salmonn:
        model = small_model(variant)
        model.merge_lora()
        return model

    return load


def inners(model: Salmonn, part: str) -> list[tuple[Inner, Inner]]:
    """FFN and attention of every layer."""
    dim = head_dim(model, part)
    return [(read_ffn(part, layer), read_attention(part, layer, dim)) for layer in model.layers(part)]


def score(model: Salmonn, clips: list[torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model.score(model.prepare(clips, "audiocaption"))


def rows(inner: Inner, units: list[int], writer: int) -> list[int]:
    size = inner.writers[writer].out_features // inner.units
    return [unit * size + offset for unit in units for offset in range(size)]


@torch.no_grad()
def silence(inner: Inner, units: list[int]) -> None:
    """Make the weights of some units zero."""
    for index, linear in enumerate(inner.writers):
        linear.weight[rows(inner, units, index)] = 0
    inner.reader.weight[:, columns(inner, units)] = 0


def kept_of(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Which rows of ``before`` are left."""
    return [index for index, row in enumerate(before) if (after == row).all(dim=1).any()]


@pytest.mark.parametrize("variant", ["gemma", "llama"])
@pytest.mark.parametrize("part", PARTS)
def test_silent_units_go_first_and_without_a_trace(
    merged: Loader, clips: list[torch.Tensor], two: Context, part: str, variant: str
) -> None:
    """Other units in each layer, but for BEATs' heads; logits and kept weights stay."""
    model = merged(variant)
    generator = torch.Generator().manual_seed(5)
    expected = []
    for index, (ffn, attention) in enumerate(inners(model, part)):
        silent = torch.randperm(ffn.units, generator=generator)[: ffn.units // 2].tolist()
        head = 1 if part == "audio_encoder" else index % attention.units
        silence(ffn, silent)
        silence(attention, [head])
        expected.append(ffn.writers[0].weight[sorted(set(range(ffn.units)) - set(silent))].clone())
    before, count = score(model, clips), inners(model, part)[0][1].units
    settings = {"ffn": 0.5, "heads": 1 - 1 / count, "round_to": 1}
    report = PruneWidth(part=part, importance="magnitude", reconstruct=False, **settings).apply(model, two)
    torch.testing.assert_close(score(model, clips), before, atol=2e-4, rtol=1e-4)
    for weight, (ffn, attention) in zip(expected, inners(model, part), strict=True):
        assert torch.equal(ffn.writers[0].weight, weight)
        assert attention.units == count - 1
    assert report.figures["saved_bytes"] > 0
    assert report.figures["loss_after"] == pytest.approx(report.figures["loss_before"], rel=1e-4)


@pytest.mark.parametrize("part", PARTS)
def test_equals_the_whole_layer_with_a_mask(
    merged: Loader, clips: list[torch.Tensor], two: Context, part: str
) -> None:
    whole, narrow = merged(), merged()
    PruneWidth(part=part, ffn=0.5, heads=0.5, round_to=16, reconstruct=False).apply(narrow, two)
    for old, new in zip(inners(whole, part), inners(narrow, part), strict=True):
        for inner, cut in zip(old, new, strict=True):
            mask = torch.zeros(inner.reader.in_features)
            writer = 2 if len(inner.writers) == 3 else 0  # of an attention the values
            kept = kept_of(inner.writers[writer].weight, cut.writers[writer].weight)
            units = sorted({row * inner.units // inner.writers[writer].out_features for row in kept})
            assert len(units) == cut.units
            mask[columns(inner, units)] = 1
            inner.reader.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask,))
    torch.testing.assert_close(score(narrow, clips), score(whole, clips), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("importance", ["taylor", "activation", "magnitude"])
@pytest.mark.parametrize("part", PARTS)
def test_planted_units_stay(merged: Loader, two: Context, part: str, importance: str) -> None:
    """A few that live among silent ones."""
    model = merged()
    weights = []
    for ffn, attention in inners(model, part):
        silence(ffn, [unit for unit in range(ffn.units) if unit % 4 != 3])
        silence(attention, list(range(attention.units - 1)))
        weights.append((ffn.writers[0].weight.clone(), attention.writers[0].weight.clone()))
    heads = 1 / inners(model, part)[0][1].units
    settings = {"ffn": 0.25, "heads": heads, "round_to": 4, "reconstruct": False}
    PruneWidth(part=part, importance=importance, **settings).apply(model, two)
    for (ffn_weight, weight), (ffn, attention) in zip(weights, inners(model, part), strict=True):
        assert torch.equal(ffn.writers[0].weight, ffn_weight[3::4])
        assert torch.equal(attention.writers[0].weight, weight[-attention.writers[0].out_features :])


def test_taylor_is_weight_times_gradient(merged: Loader, two: Context) -> None:
    """By hand: the sum of all tokens' losses, its gradient, |w g| summed over a channel's weights."""
    model, reference = merged(), merged()
    reference.requires_grad_(True)
    for example in two.calibration:
        logits, labels = reference.logits([example]), reference.prepare_training([example]).labels
        cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="sum").backward()
    settings = {"ffn": 0.5, "round_to": 1, "reconstruct": False, "batch_size": 2}
    PruneWidth(part="speech_encoder", **settings).apply(model, two)
    for old, new in zip(reference.layers("speech_encoder"), model.layers("speech_encoder"), strict=True):
        scores = (old.fc1.weight * old.fc1.weight.grad).abs().sum(1)
        scores += (old.fc2.weight * old.fc2.weight.grad).abs().sum(0)
        assert kept_of(old.fc1.weight, new.fc1.weight) == sorted(
            scores.topk(len(scores) // 2).indices.tolist()
        )
    assert all(p.grad is None and not p.requires_grad for p in model.speech_encoder.parameters())


def test_no_more_than_one_clip_has_a_graph(merged: Loader, two: Context) -> None:
    """What is kept for the backward pass grows with the clips that are computed together."""
    model, batches = merged(), []

    def note(_: object, args: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            batches.append(len(args[0]))

    model.speech_encoder.conv1.register_forward_pre_hook(note)
    PruneWidth(part="speech_encoder", ffn=0.5, batch_size=2).apply(model, two)
    assert batches == [1, 1]


@pytest.mark.parametrize("part", PARTS)
def test_reconstruction_lowers_the_error(merged: Loader, two: Context, part: str) -> None:
    report = PruneWidth(part=part, ffn=0.5, heads=0.5, round_to=1).apply(merged(), two)
    assert len(report.modules) == 6
    for row in report.modules:
        assert 0 < row["error"] < row["error_removed"] < 1
    for width in ("ffn", "heads"):
        assert report.figures[f"{width}_error"] < 0.5 * report.figures[f"{width}_error_removed"]


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_a_narrower_llm_generates_with_its_cache(
    merged: Loader, clips: list[torch.Tensor], two: Context, tmp_path: Path, variant: str
) -> None:
    """Greedy ids with the KV cache are those without; the saved model gives them too, with its own config."""
    model = merged(variant)
    PruneWidth(part="llm", ffn=0.5, heads=0.5).apply(model, two)
    config = model.causal_lm.config
    assert (config.num_key_value_heads, config.num_attention_heads, config.head_dim) == (1, 2, 16)
    settings = model.decode_settings("asr", num_beams=1, max_new_tokens=6)
    inputs = model.prepare(clips[:1], "asr")
    found = model.generate_ids(inputs, settings)
    embeds, ids = inputs.embeds, []
    embedding = model.causal_lm.get_input_embeddings()
    with torch.inference_mode():
        for _ in range(found.shape[1]):
            ids.append(model.llm(inputs_embeds=embeds, use_cache=False).logits[0, -1].argmax())
            embeds = torch.cat((embeds, embedding(ids[-1][None, None])), dim=1)
    assert found[0].tolist() == [int(token) for token in ids]
    loaded = store.load(store.save(model, tmp_path / "model"))
    for name in ("intermediate_size", "num_key_value_heads", "num_attention_heads", "head_dim"):
        assert getattr(loaded.causal_lm.config, name) == getattr(config, name)
    assert torch.equal(loaded.generate_ids(loaded.prepare(clips[:1], "asr"), settings), found)


@pytest.mark.parametrize("part", PARTS)
def test_saved_and_predicted_like_the_model_in_memory(
    merged: Loader, clips: list[torch.Tensor], two: Context, tmp_path: Path, parity: Path, part: str
) -> None:
    """In bfloat16, twice over, and with the sizes that the outline foretells."""
    model = merged()
    model.cast(torch.bfloat16)
    sketch = Sketch(outline_model(parity / "llama" / "config.yaml").model)
    MergeLora().predict(sketch)
    sketch.model.cast(torch.bfloat16)
    for settings in ({"heads": 0.5}, {"ffn": 0.7, "round_to": 16, "importance": "activation"}):
        entry = PruneWidth(part=part, **settings)
        entry.apply(model, two)
        entry.predict(sketch)
    loaded = store.load(store.save(model, tmp_path / "model"))
    assert torch.equal(score(model, clips), score(loaded, clips))
    assert loaded.weight_bytes() == model.weight_bytes()
    expected = {layer.name: layer for layer in layers_of(model)}
    assert {layer.name: layer for layer in layers_of(loaded)} == expected
    assert {layer.name: layer for layer in sketch.layers()} == expected


def test_heads_need_not_divide_the_width() -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 20}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8}
    config = llm_config({"model_type": "llama", **sizes, **heads})
    assert {name: getattr(config, name) for name in heads} == heads
    llm = AutoModelForCausalLM.from_config(config)
    assert llm.model.layers[0].self_attn.q_proj.weight.shape == (48, 64)
    assert llm(torch.arange(5)[None]).logits.shape == (1, 5, 20)


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
def test_the_llm_may_be_packed_already(merged: Loader, two: Context) -> None:
    """The gradient goes through packed layers to the encoder before them."""
    model = merged("gemma")
    Gptq(bits=4, group_size=32).apply(model, two)
    QuantizeEmbedding().apply(model, two)
    report = PruneWidth(part="speech_encoder", ffn=0.5).apply(model, two)
    assert report.figures["ffn_kept"] == 64


def test_nothing_to_remove_is_said(merged: Loader, two: Context) -> None:
    report = PruneWidth(part="llm", heads=0.9).apply(merged(), two)
    assert not report.changed
    assert "rounded to all" in report.notes[0]


def test_settings_that_would_remove_nothing() -> None:
    for settings in ({}, {"ffn": 1.0, "importance": "magnitude"}):
        with pytest.raises(ValidationError, match="give ffn or heads below 1"):
            PruneWidth(part="llm", **settings)


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
def test_refusals(merged: Loader, small_model: Loader, two: Context) -> None:
    model = merged()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    empty = replace(two, calibration=[])
    for settings, message in (
        ({"part": "speech_encoder", "heads": 0.1}, "leaves nothing of speech_encoder, which has 4 heads"),
        ({"part": "llm", "ffn": 0.05, "round_to": 32}, "which has 144 channels, round_to is 32"),
    ):
        with pytest.raises(PassError, match=message):
            PruneWidth(**settings).apply(model, two)
    for settings in ({}, {"importance": "magnitude"}, {"reconstruct": False}):
        with pytest.raises(PassError, match="no calibration clips"):
            PruneWidth(part="llm", ffn=0.5, **settings).apply(model, empty)
    with pytest.raises(PassError, match="unmerged LoRA; put merge_lora before it"):
        PruneWidth(part="llm", ffn=0.5).apply(small_model(), two)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    Gptq(bits=4, group_size=32).apply(model, two)
    with pytest.raises(PassError, match=r"is a QuantizedLinear.*put prune_width before the pass"):
        PruneWidth(part="llm", ffn=0.5).apply(model, two)
    model.audio_encoder = None
    with pytest.raises(PassError, match="has no audio_encoder; it has speech_encoder"):
        PruneWidth(part="audio_encoder", ffn=0.5).apply(model, two)
