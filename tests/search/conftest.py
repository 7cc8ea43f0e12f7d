"""A study on the random Llama set whose trials take seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

TEXTS = ("the quick brown fox", "a dog barks while rain falls")


@pytest.fixture
def recipe_file(tmp_path: Path, parity: Path) -> Path:
    """Six configurations, two of them impossible: the encoder has three layers and cannot keep all."""
    entries = []
    for index, text in enumerate(TEXTS):
        name = f"clip{index}.wav"
        shutil.copy(parity / "llama" / "audio" / "clip1.wav", tmp_path / name)
        entries.append(
            {"path": name, "text": text, "task": ("asr", "audiocaption")[index], "testset_id": name}
        )
    (tmp_path / "clips.json").write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    recipe = {
        "baseline": str(parity / "llama" / "config.yaml"),
        "data": {"calibration": "clips.json", "test": "clips.json"},
        "passes": [
            {"pass": "cast", "dtype": "bfloat16", "when": {"choose": [True, False]}},
            {"pass": "merge_lora"},
            {"pass": "layer_drop", "part": "speech_encoder", "method": "even", "keep": {"choose": [2, 1, 3]}},
        ],
        "benchmark": {
            "decode": {"asr": {"max_new_tokens": 3}, "aac": {"max_new_tokens": 3}},
            "latency": {"clips": 1, "warmup": 0, "transformers": False},
            "noise_protocol": {"warmup": 0, "iterations": 1},
        },
        "goals": {"weight_ratio": 0.7},
        "search": {"objectives": ["weights", "wer"], "trials": 4},
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file
