"""What holds for every pass, present and future. A pass without an entry in SETTINGS fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from audiolm_compress.passes import PASSES, AnyPass
from audiolm_compress.passes.base import Context, Pass
from audiolm_compress.planning.layers import Layer, file_bytes, layers_of
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model
from audiolm_compress.stage_keys import tensors_digest

# An unchanged model is as near to the baseline as can be; what is left to learn are the texts.
TEXT = {"speech": 0, "audio": 0, "connector": 0, "logits": 0, "text": 1}
# The smallest entry of each pass that changes the small models of the parity sets.
SETTINGS: dict[str, dict[str, Any]] = {
    "unpad_audio": {},
    "audio_token_rate": {"window_seconds": 0.5},
    "distill": {"clips": 4, "steps": 1, "losses": TEXT, "learning_rate": 1e-5},
    "drop_audio_encoder": {},
    "layer_drop": {"part": "speech_encoder", "keep": 2, "loss_clips": 2},
    "low_rank": {"budget": 0.7, "loss_clips": 2},
    "lora_recovery": {
        "parts": ["connector"],
        "rank": 2,
        "merge": "never",
        "clips": 2,
        "steps": 1,
        "losses": TEXT,
    },
    "merge_lora": {},
    "cache_prompt": {},
    "compute_positions": {},
    "cast": {"parts": ["speech_encoder"], "dtype": "bfloat16"},
    "gptq": {"bits": 4, "group_size": 32},
    "prune_width": {"part": "speech_encoder", "ffn": 0.5, "heads": 0.5},
    "quantize_embedding": {},
    "quantize_encoder": {},
    "scale_recovery": {
        "parts": ["connector"],
        "scales": False,
        "biases": False,
        "clips": 2,
        "steps": 1,
        "losses": TEXT,
    },
    # Random models answer nothing well, so cheapness decides; the two clips that confirm it give p = 1/4.
    "prompt_search": {
        "candidates": 3,
        "finalists": 1,
        "fewest_clips": 4,
        "confidence": 0.75,
        "length_penalty": {"wer": 9.0, "cider_d": 9.0},
    },
    "decode_search": {
        "num_beams": [1],
        "candidates": 3,
        "finalists": 1,
        "fewest_clips": 4,
        "confidence": 0.75,
        "latency_weight": {"wer": 9.0, "cider_d": 9.0},
    },
    "vocab_trim": {"check_clips": 2},
}
KINDS = [pass_class.model_fields["kind"].default for pass_class in PASSES]


def make(kind: str) -> Pass:
    entry: Pass = TypeAdapter(AnyPass).validate_python({"pass": kind} | SETTINGS[kind])
    return entry


def taught(context: Context, small_model: Callable[..., Salmonn], kind: str, variant: str) -> Context:
    """The context, with a baseline to learn from for passes that learn; no other may ask for one."""
    if not type(make(kind)).learns:
        return context
    return replace(context, reference=lambda: small_model(variant))


def answers(model: Salmonn, clips: list[torch.Tensor]) -> tuple[torch.Tensor, list[str]]:
    with torch.inference_mode():
        logits = model.score(model.prepare(clips, "audiocaption"))
    return logits, model.generate(clips, "audiocaption", num_beams=1)


def state(model: Salmonn) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


def test_every_pass_is_tried_here() -> None:
    assert sorted(SETTINGS) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_yaml_round_trip(kind: str) -> None:
    entry = make(kind)
    text = yaml.safe_dump(entry.model_dump(mode="json", by_alias=True))
    assert TypeAdapter(AnyPass).validate_python(yaml.safe_load(text)) == entry


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    fields = type(make(kind)).model_fields
    assert all(field.description for name, field in fields.items() if name != "kind")


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
@pytest.mark.parametrize("variant", ["gemma", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_contract(
    small_model: Callable[..., Salmonn],
    clips: list[torch.Tensor],
    context: Context,
    tmp_path: Path,
    kind: str,
    variant: str,
) -> None:
    """Honest about changing, still answers, and the saved model is the one in memory."""
    model = small_model(variant)
    before, config = state(model), store.describe(model)
    report = make(kind).apply(model, taught(context, small_model, kind, variant))
    assert report.changed
    assert report.summary
    logits, texts = answers(model, clips)
    assert not (equal(before, state(model)) and store.describe(model) == config)  # some change no weight
    assert torch.isfinite(logits).all()
    loaded = load_model(store.save(model, tmp_path / "model"))
    assert tensors_digest(loaded) == tensors_digest(model)  # what later passes find, computed buffers too
    loaded_logits, loaded_texts = answers(loaded, clips)
    assert torch.equal(logits, loaded_logits)
    assert texts == loaded_texts


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_result(small_model: Callable[..., Salmonn], context: Context, kind: str) -> None:
    results = []
    for _ in range(2):
        model = small_model()
        context.rng.manual_seed(7)
        make(kind).apply(model, taught(context, small_model, kind, "llama"))
        results.append(state(model))
    assert equal(*results)


def sizes(layers: list[Layer]) -> dict[str, Layer]:
    """By name, without the numbers of inputs that only calibration data can tell, a few bytes a layer."""
    known = [{name: t for name, t in layer.tensors.items() if name != "outliers"} for layer in layers]
    return {layer.name: replace(layer, tensors=tensors) for layer, tensors in zip(layers, known, strict=True)}


@pytest.mark.filterwarnings("ignore:.*may be slower than 16 bit")  # the small models compute in float32
@pytest.mark.parametrize("variant", ["gemma", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_prediction(
    small_model: Callable[..., Salmonn],
    context: Context,
    tmp_path: Path,
    parity: Path,
    kind: str,
    variant: str,
) -> None:
    """What a pass predicts from configs is what it does; where data decides, an upper bound and a word."""
    model = small_model(variant)
    make(kind).apply(model, taught(context, small_model, kind, variant))
    sketch = Sketch(outline_model(parity / variant / "config.yaml").model, context.calibration)
    make(kind).predict(sketch)
    saved = (store.save(model, tmp_path / "model") / store.WEIGHTS).stat().st_size
    predicted = file_bytes(sketch.layers())
    unsure = [note for note in sketch.notes if "may be slower than 16 bit" not in note]  # no matter of size
    if unsure:
        assert saved * 0.99 <= predicted
    else:
        assert predicted == pytest.approx(saved, rel=0.01)
        assert sizes(layers_of(sketch.model)) == sizes(layers_of(model))
    assert sketch.model.bucket_seconds == model.bucket_seconds
    assert sketch.model.connector.config == model.connector.config
