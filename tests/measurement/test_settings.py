"""The recipe's benchmark section."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from audiolm_compress.measurement.settings import BenchmarkSettings


def test_decode_changes_by_kind_and_by_task() -> None:
    settings = BenchmarkSettings.model_validate(
        {"decode": {"asr": {"num_beams": 1, "max_new_tokens": 40}, "asr_long": {"max_new_tokens": 90}}}
    )
    assert settings.decode_changes("asr") == {"num_beams": 1, "max_new_tokens": 40}
    assert settings.decode_changes("asr_long") == {"num_beams": 1, "max_new_tokens": 90}
    assert settings.decode_changes("audiocaption") == {}


def test_written_out_settings_read_back_equal() -> None:
    settings = BenchmarkSettings.model_validate(
        {"decode": {"aac": {"repetition_penalty": 1.2}}, "runtime": {"engine": "transformers"}}
    )
    again = BenchmarkSettings.model_validate(settings.model_dump(mode="json"))
    assert again == settings
    assert again.decode_changes("audiocaption") == {"repetition_penalty": 1.2}


@pytest.mark.parametrize(
    "content",
    [
        {"decode": {"asr": {"beams": 2}}},
        {"decode": {"asr": {"num_beams": 0}}},
        {"latency": {"clips": 0}},
        {"latency": {"batch_sizes": [4, 0]}},
        {"noise_protocol": {"iterations": 0}},
        {"batchsize": 4},
        {"runtime": {"engine": "llama.cpp"}},
        {"length_edges": []},
        {"length_edges": [0, 5]},
        {"length_edges": [10, 5]},
    ],
)
def test_impossible_settings_are_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BenchmarkSettings.model_validate(content)


def test_models_of_scores_are_whole_and_known_before_anything_is_measured(tmp_path: Path) -> None:
    def read(**entries: str) -> BenchmarkSettings:
        return BenchmarkSettings.model_validate(entries, context={"folder": tmp_path})

    with pytest.raises(ValidationError, match="no such folder"):
        read(sentence_model="encoder")
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").touch()
    with pytest.raises(ValidationError, match=r"no model.safetensors in"):
        read(sentence_model="encoder")
    (folder / "model.safetensors").touch()
    assert read(sentence_model="encoder").sentence_model == str(folder)
    with pytest.raises(ValidationError, match="needs `sentence_model`, which is unset"):
        read(fluency_model="encoder")
