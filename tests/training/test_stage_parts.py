"""What a stage trains, learns from and hears, against upstream's files and definitions."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from audiolm_compress.data.annotation import Entry
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.prompts import AUDIO_FRAME, Prompts
from audiolm_compress.salmonn.upstream_names import our_name, upstream_name
from audiolm_compress.salmonn.upstream_save import trained_tensors
from audiolm_compress.training import FeatureCache, TrainSettings, train
from audiolm_compress.training.stage_config import Optims, upstream_rate
from audiolm_compress.training.stage_data import EncoderStates, sampled_around, shuffled
from audiolm_compress.training.stage_model import choose_trained


@pytest.mark.parametrize("variant", ["llama", "gemma"])
def test_upstream_trains_the_same_parameters(
    variant: str, small_model: Callable[[str], Salmonn], parity: Path
) -> None:
    """Names and AdamW's groups against files that upstream wrote."""
    model = small_model(variant)
    config = yaml.safe_load((parity / variant / "config.yaml").read_text())
    choose_trained(model, config["model"])
    ours = trained_tensors(model, variant)
    gradients = json.loads((parity / variant / "grad_norms.json").read_text())["grad_norm_and_absmax"]
    assert ours.keys() == gradients.keys()
    keys = json.loads((parity / variant / "salmonn_keys.json").read_text())["model"]
    for name, tensor in ours.items():
        assert [list(tensor.shape), "float32"] == keys[name]
    constant = ("position_ids", "relative_attention_bias.weight", "lm_head.weight")
    assert all(name.endswith(constant) for name in keys.keys() - ours.keys())

    groups = torch.load(parity / variant / "salmonn.pth", weights_only=True)["optimizer"]["param_groups"]
    expected = [(group["weight_decay"], len(group["params"])) for group in groups]
    found: list[tuple[float, int]] = []
    settings = TrainSettings(steps=1, learning_rate=1e-9, weight_decay=0.05)
    train(
        model,
        lambda epoch: [0],
        lambda model, entry: sum(p.sum() for p in model.parameters() if p.requires_grad),  # type: ignore[arg-type,return-value]
        settings,
        after_step=lambda result, optimizer: found.extend(
            (group["weight_decay"], len(group["params"])) for group in optimizer.param_groups
        ),
    )
    assert found == expected


@pytest.mark.parametrize("variant", ["llama", "gemma"])
def test_gradients_of_all_trained_parameters(
    variant: str, small_model: Callable[[str], Salmonn], parity: Path, clips: list[torch.Tensor]
) -> None:
    """Against upstream's, in evaluation mode; norms within 1 %, as the set allows."""
    model = small_model(variant)
    config = yaml.safe_load((parity / variant / "config.yaml").read_text())
    choose_trained(model, config["model"])
    stored = json.loads((parity / variant / "grad_norms.json").read_text())
    norms = stored.get("grad_norm_and_absmax_eager", stored["grad_norm_and_absmax"])
    expected = json.loads((parity / variant / "expected.json").read_text())
    texts = [text.removesuffix(model.end_symbol) for text in expected["target_texts"]]
    audio = model.encode_audio(clips)
    model.text_loss(model.wrap(audio, [model.prompts.around("audiocaption")] * 2, texts)).backward()
    largest = max(norm for norm, _ in norms.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            norm, peak = norms[upstream_name(name, variant)]
            # A gradient that is zero but for rounding (of key biases) has no digits to compare.
            assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-2, abs=1e-5 * largest), name
            assert parameter.grad.abs().max().item() == pytest.approx(peak, rel=2e-2, abs=1e-5 * largest), (
                name
            )


@pytest.mark.parametrize("variant", ["llama", "gemma"])
def test_every_name_of_upstream_comes_back(variant: str, parity: Path) -> None:
    aliases = ("position_ids", "relative_attention_bias.weight")
    for name in json.loads((parity / variant / "salmonn_keys.json").read_text())["model"]:
        if not name.endswith(aliases):
            assert upstream_name(our_name(name), variant) == name


def test_what_is_frozen(small_model: Callable[[], Salmonn]) -> None:
    model = small_model()

    def trained(**section: Any) -> set[str]:
        choose_trained(model, {"llama_path": "llm", **section})
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert not any(name.startswith("llm.") and ".lora_" not in name for name in names)
        return {".".join(name.split(".")[:2]) for name in names if not name.startswith("llm.")}

    connector = {f"connector.{part}" for part in ("ln_speech", "ln_audio", "qformer", "projection")}
    assert trained() == connector
    assert trained(freeze_speech_QFormer=True) == connector - {"connector.qformer"}
    assert trained(freeze_speech_llama_proj=True) == connector - {"connector.projection"}
    hearing = trained(freeze_whisper=False, freeze_beats=False)
    assert {"speech_encoder.layers", "audio_encoder.encoder"} <= hearing
    assert "speech_encoder.embed_positions" not in hearing


def test_learning_rate_is_upstreams() -> None:
    """Values by hand from the definition in the parity set's description."""
    optims = Optims(max_epoch=2, warmup_steps=4, warmup_start_lr=1e-6, init_lr=3e-5, min_lr=1e-5)
    rates = [upstream_rate(batch, 20, optims) for batch in range(21)]
    assert rates[:5] == pytest.approx(
        [1e-6, 8.25e-6, 1.55e-5, 2.275e-5, 1e-5 + 2e-5 * (1 + math.cos(math.pi / 5)) / 2]
    )
    assert rates[10] == pytest.approx(2e-5)
    assert rates[20] == pytest.approx(1e-5)


def test_prompts_are_drawn_for_each_clip(small_model: Callable[[], Salmonn]) -> None:
    model = small_model()
    asr = tuple(f"{AUDIO_FRAME}Prompt {number}" for number in range(4))
    model.prompts = Prompts(
        "U: {} A:", {"asr": f"{AUDIO_FRAME}Test"}, {"asr": asr, "QA": (f"{AUDIO_FRAME}{{}}",)}
    )
    entries = [Entry("a.wav", Path("a.wav"), "x", ("x",))] * 40
    question = Entry("q.wav", Path("q.wav"), "x", ("x",), task="QA", Q="What is {}?")
    each = sampled_around(model, [*entries, question], random.Random(0), each=True)
    assert {after for _, after in each[:-1]} == {f"</Speech> Prompt {number} A:" for number in range(4)}
    assert each[-1] == ("U: <Speech>", "</Speech> What is {}? A:")
    once = sampled_around(model, entries, random.Random(0), each=False)
    assert len(set(once)) == 1


def test_epochs_hold_every_clip_once_in_another_order() -> None:
    first, second = (shuffled(10, 3, 42, epoch) for epoch in (0, 1))
    assert [len(batch) for batch in first] == [3, 3, 3]
    assert len({index for batch in first for index in batch}) == 9
    assert first != second
    assert first == shuffled(10, 3, 42, 0)
    assert shuffled(2, 4, 0, 0) in ([[0, 1]], [[1, 0]])


def test_cached_states_are_those_of_each_clip_alone(
    small_model: Callable[[], Salmonn], clips: list[torch.Tensor], tmp_path: Path
) -> None:
    model = small_model()
    for bucket in (None, 1.0):
        model.bucket_seconds = bucket
        cache = FeatureCache(tmp_path, 10**8)
        states = EncoderStates(model, cache)
        first = states.audio_tokens(clips)
        with torch.autocast("cpu", torch.bfloat16):
            states.audio_tokens(clips)
        again = states.audio_tokens(clips)
        assert (cache.computed, cache.found) == (2, 4)
        assert torch.equal(first.embeddings, again.embeddings)
        for row, mask, clip in zip(first.embeddings, first.mask.bool(), clips, strict=True):
            torch.testing.assert_close(row[mask], model.encode_audio([clip]).embeddings[0])
