"""Word error rate against numbers of the upstream evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.normalise import whisper_english
from audiolm_compress.metrics.wer import Edits, comparable_words, wer

FIXTURE = json.loads(
    (Path(__file__).parents[1] / "fixtures/upstream_parity/metrics/wer.json").read_text(encoding="utf-8")
)
PAIRS: list[dict[str, Any]] = FIXTURE["pairs"]


@pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
def test_normalised_strings_and_tokens_equal_upstreams(pair: dict[str, Any]) -> None:
    assert whisper_english(pair["hyp"]).strip() == pair["norm_hyp"].strip()
    assert whisper_english(pair["ref"]).strip() == pair["norm_ref"].strip()
    assert comparable_words(pair["hyp"]) == pair["tokens_hyp"]
    assert comparable_words(pair["ref"]) == pair["tokens_ref"]


def test_distances_and_total_equal_upstreams() -> None:
    result = wer([pair["hyp"] for pair in PAIRS], [pair["ref"] for pair in PAIRS])
    assert [clip.errors for clip in result.per_clip] == [pair["edit_distance"] for pair in PAIRS]
    assert [clip.words for clip in result.per_clip] == [pair["ref_length"] for pair in PAIRS]
    assert result.edits.words == FIXTURE["total_ref_length"]
    assert result.edits.errors == FIXTURE["total_edit_distance"]
    assert result.wer == pytest.approx(FIXTURE["wer"], abs=1e-12)


def test_errors_by_kind() -> None:
    result = wer(["a cat sat sat", "red green", "noise"], ["the cat sat", "red green blue", ""])
    assert result.edits == Edits(substitutions=1, deletions=1, insertions=2, words=6)
    assert result.wer == pytest.approx(4 / 6)


def test_impossible_inputs() -> None:
    with pytest.raises(DataError, match="1 hypotheses for 2 references"):
        wer(["a"], ["a", "b"])
    with pytest.raises(DataError, match="no words"):
        wer(["a"], ["..."])
    with pytest.raises(DataError, match="no words"):
        wer([], [])
