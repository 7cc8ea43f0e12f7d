"""Real sizes from configs alone: against published totals, and against figures computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Gemma2Config, LlamaConfig, WhisperConfig

from audiolm_compress.passes import Cast, Gptq, MergeLora, QuantizeEmbedding, VocabTrim
from audiolm_compress.planning.devices import NAMED_DEVICES
from audiolm_compress.planning.floors import tpot_bound
from audiolm_compress.planning.layers import layers_of
from audiolm_compress.planning.memory import peak_activations
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.planning.work import Clip, cache_bytes_per_token, flops_per_token, part_costs
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.outline import outline_model

WHISPER = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
}
GEMMA_2_2B = Gemma2Config(
    vocab_size=256000,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    dtype="bfloat16",
)
LLAMA_3_2_3B = LlamaConfig(
    vocab_size=128256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
    dtype="float16",
)
# The seed's prompt explained the task at length; the baseline's is one line. Without a tokenizer's files four
# characters count as a token.
LONG_PROMPT = "You are given a recording. " * 15
SHORT_PROMPT = "Recognize the speech and give me the transcription."


def checkpoint(folder: Path, llm: Any, mel_bins: int, prompt: str = SHORT_PROMPT) -> Path:
    """An upstream layout that has configs and nothing else."""
    for name, config in (("llm", llm), ("whisper", WhisperConfig(num_mel_bins=mel_bins, **WHISPER))):
        (folder / name).mkdir()
        config.to_json_file(folder / name / "config.json", use_diff=False)
    (folder / "prompts.json").write_text(json.dumps({"asr": f"<Speech><SpeechHere></Speech> {prompt}"}))
    key = "gemma_path" if llm.model_type == "gemma2" else "llama_path"
    model = {
        key: "llm",
        "whisper_path": "whisper",
        "beats_path": "BEATs_iter3_plus_AS2M.pt",
        "ckpt": "salmonn.pth",
        "test_prompt_path": "prompts.json",
        "prompt_template": "USER: {}\nASSISTANT:",
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"model": model}))
    return file


@pytest.fixture
def gemma(tmp_path: Path) -> Sketch:
    return Sketch(outline_model(checkpoint(tmp_path, GEMMA_2_2B, 128)).model)


def test_missing_files_are_named(tmp_path: Path) -> None:
    notes = outline_model(checkpoint(tmp_path, GEMMA_2_2B, 128)).notes
    assert [note.split(":")[0] for note in notes] == [
        "no salmonn.pth",
        "no tokenizer in llm",
        "no BEATs_iter3_plus_AS2M.pt",
    ]


def test_parameters_are_the_published_ones(gemma: Sketch) -> None:
    """Whisper-large's encoder 637 M, BEATs 90 M, Gemma-2-2B 2.614 B (its model card's 2.6 B)."""
    costs = part_costs(gemma.layers(), Clip.of(gemma.model), gemma.model)
    millions = {name: cost.parameters / 1e6 for name, cost in costs.items()}
    assert millions["speech_encoder"] == pytest.approx(637, abs=1)
    assert millions["audio_encoder"] == pytest.approx(90.3, abs=0.3)
    assert millions["connector"] == pytest.approx(25, abs=1)
    # the new pad token's row, and LoRA of rank 8 on q and v: 26 * 8 * (2304 + 2048 + 2304 + 1024)
    assert millions["llm"] == pytest.approx(2614.342 + 0.002304 + 1.597, abs=0.01)


def test_floors_are_those_computed_by_hand(gemma: Sketch) -> None:
    """V100: 5.8 ms a token in 16 bit, 2.5 ms with a 4-bit body; 104 KiB of cache a token."""
    v100 = NAMED_DEVICES[0]

    def milliseconds() -> float:
        layers, clip = gemma.layers(), Clip.of(gemma.model)
        return 1e3 * tpot_bound(v100, layers, clip).both

    MergeLora().predict(gemma)
    assert cache_bytes_per_token(gemma.layers()) == 104 * 1024
    assert milliseconds() == pytest.approx(5.8, abs=0.05)
    Gptq(bits=4, group_size=128).predict(gemma)
    assert milliseconds() == pytest.approx(2.5, abs=0.05)
    assert cache_bytes_per_token(gemma.layers()) == 104 * 1024
    QuantizeEmbedding().predict(gemma)
    assert milliseconds() == pytest.approx(2.5 - 590 / 900, abs=0.05)


BYTES, HALF = torch.int8, torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "prompt"),
    [
        ({"bits": 4, "group_size": 64}, BYTES),
        ({"bits": 4, "group_size": 64, "progressive": True}, BYTES),
        ({"bits": 4, "group_size": -1}, BYTES),
        ({"bits": 8, "group_size": -1}, BYTES),
        ({"bits": 4, "group_size": 16}, HALF),
        ({"bits": 4, "symmetric": False}, HALF),
        ({"bits": 3, "group_size": 64}, HALF),
        ({"bits": 8, "group_size": 128}, HALF),
        ({"bits": 4, "prefill_activations": 16}, HALF),
    ],
)
def test_only_prompts_and_only_some_formats_are_products_of_bytes(
    gemma: Sketch, settings: dict[str, Any], prompt: torch.dtype
) -> None:
    MergeLora().predict(gemma)
    Gptq(**settings).predict(gemma)
    layers, clip = gemma.layers(), Clip.of(gemma.model)
    packed = next(layer for layer in layers if layer.name == "llm.model.layers.0.mlp.up_proj")
    assert (packed.compute, packed.floating) == (prompt, HALF)
    assert flops_per_token(layers, clip).keys() == {HALF}
    assert (BYTES in part_costs(layers, clip, gemma.model)["llm"].flops) == (prompt == BYTES)
    assert cache_bytes_per_token(layers) == 104 * 1024


def test_a_vocabulary_that_is_only_counted_is_noted_in_the_config(gemma: Sketch) -> None:
    gemma.tokenizer_known = False
    VocabTrim(size=1000).predict(gemma)
    assert gemma.model.causal_lm.get_input_embeddings().num_embeddings == 1024
    assert store.describe(gemma.model)["llm"]["vocab_size"] == 1024


def test_work_until_the_first_token(gemma: Sketch) -> None:
    """2.85 TFLOP with Whisper padded to 30 s, four fifths of it Whisper's; 1.01 at the clip's own length."""
    MergeLora().predict(gemma)
    for bucket, total in ((None, 2.85), (1.0, 1.01)):
        gemma.model.bucket_seconds = bucket
        costs = part_costs(gemma.layers(), Clip.of(gemma.model), gemma.model)
        work = {name: sum(cost.flops.values()) / 1e12 for name, cost in costs.items()}
        assert sum(work.values()) == pytest.approx(total, rel=0.1)
        if bucket is None:
            assert work["speech_encoder"] / sum(work.values()) == pytest.approx(0.8, abs=0.03)


def test_published_total_of_the_baseline(tmp_path: Path) -> None:
    """9.176 GiB: Llama-3.2-3B in float16, Whisper-large-v2 and BEATs in float32."""
    sketch = Sketch(outline_model(checkpoint(tmp_path, LLAMA_3_2_3B, 80)).model)
    assert upstream_gib(sketch) == pytest.approx(9.176, rel=0.03)


def test_published_total_of_the_seed(tmp_path: Path) -> None:
    """5.317 GiB: Gemma-2-2B by GPTQ in 4 bit, embedding in 16, Whisper-v3-turbo and BEATs in float32."""
    sketch = Sketch(outline_model(checkpoint(tmp_path, GEMMA_2_2B, 128, LONG_PROMPT)).model)
    Gptq(bits=4, group_size=128).predict(sketch)
    assert upstream_gib(sketch) == pytest.approx(5.317, rel=0.03)


def upstream_gib(sketch: Sketch) -> float:
    """Peak memory as upstream's script runs a model: all logits, attention of Whisper written out."""
    layers, clip = sketch.layers(), Clip.of(sketch.model)
    activations = peak_activations(sketch.model, layers, clip, scores=True, all_logits=True)
    return (sum(layer.bytes for layer in layers) + activations) / 2**30


def test_a_saved_folder_needs_its_config_alone(tmp_path: Path, gemma: Sketch) -> None:
    (tmp_path / "saved").mkdir()
    MergeLora().predict(gemma)
    Cast(parts=("speech_encoder",)).predict(gemma)
    Gptq(group_size=128).predict(gemma)
    QuantizeEmbedding().predict(gemma)
    config = store.describe(gemma.model) | {"aliases": {}, "dtypes": {"speech_encoder": "bfloat16"}}
    (tmp_path / "saved" / store.CONFIG).write_text(json.dumps(config))
    again = outline_model(tmp_path / "saved")
    assert layers_of(again.model) == gemma.layers()
    assert any("dtypes of the configs" in note for note in again.notes)
