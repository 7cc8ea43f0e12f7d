"""The clips of ``tiny`` can be used and passed on, and what is learnt from holds nothing of the test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from audiolm_compress.data.loading import load_examples
from audiolm_compress.salmonn.load import TINY

SPLITS = ("calibration", "training", "validation", "test")


def entries(split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((TINY / "data" / f"{split}.json").read_text("utf-8"))[
        "annotation"
    ]
    return found


def recordings(entry: dict[str, Any]) -> frozenset[str]:
    """What a mixture was made of."""
    return frozenset(entry["source"].removeprefix("mixture of ").split(" and "))


@pytest.mark.parametrize("split", SPLITS)
def test_every_clip_is_there_and_decodes(split: str) -> None:
    loaded = load_examples(TINY / "data" / f"{split}.json", require_ids=True)
    assert not loaded.bad
    assert loaded.truncated == 0
    for example, entry in zip(loaded.examples, entries(split), strict=True):
        seconds = len(example.waveform) / 16_000
        assert seconds == pytest.approx(max(1.0, entry["duration"]), abs=0.03), entry["path"]
        assert example.waveform.abs().max() > 0.01, entry["path"]


@pytest.mark.parametrize("split", SPLITS)
def test_every_clip_may_be_passed_on_and_its_author_is_named(split: str) -> None:
    thanked = (TINY / "ATTRIBUTION.md").read_text("utf-8")
    for entry in entries(split):
        assert entry["attribution"] and entry["source"], entry["path"]
        assert entry["licence"].startswith(("CC0-1.0", "CC-BY-3.0", "CC-BY-SA-3.0", "Free Art License"))
        assert "GPL" not in entry["licence"], entry["path"]
        assert sum(word in entry["licence"] for word in ("CC-BY-SA", "Free Art")) < 2, entry["path"]
        assert thanked.count(f"| {entry['path']} | {entry['licence']} | ") == 1


def test_no_audio_lies_there_without_an_entry() -> None:
    listed = {entry["path"] for split in SPLITS for entry in entries(split)}
    found = {path.relative_to(TINY / "data").as_posix() for path in (TINY / "data").rglob("*.*")}
    assert found - {f"{split}.json" for split in SPLITS} == listed


@pytest.mark.parametrize("split", ["calibration", "training", "validation"])
def test_nothing_of_the_test_can_be_learnt(split: str) -> None:
    """No file, no recording that the test has as it is, no sentence."""
    learnt, test = entries(split), entries("test")
    for of in ("path", "testset_id", "source_file"):
        assert {e[of] for e in learnt if of in e}.isdisjoint(e[of] for e in test if of in e), of
    sentences = {entry["text"] for entry in test if entry["task"] == "asr"}
    assert sentences.isdisjoint(entry["text"] for entry in learnt)


@pytest.mark.parametrize("split", ["training", "validation"])
def test_no_mixture_repeats_one_of_the_test(split: str) -> None:
    """Test mixtures are made of training recordings; none of them is put together alike a second time."""
    training, test = entries(split), entries("test")
    mixtures = [entry for entry in test if entry["source"].startswith("mixture of ")]
    assert len(mixtures) == 60
    of_test = {(recordings(entry), text) for entry in mixtures for text in entry["texts"]}
    of_training = {(recordings(entry), text) for entry in training for text in entry.get("texts", ())}
    assert of_test.isdisjoint(of_training)


def test_training_holds_calibration_speech_once() -> None:
    speech = {entry["path"] for entry in entries("calibration") if entry["task"] == "asr"}
    training = [entry["path"] for entry in entries("training")]
    assert len(speech) == 64 and speech <= set(training)
    assert len(training) == len(set(training)) == 426


def test_nothing_learns_from_the_validation_speech() -> None:
    """Mixtures of both are made of the same recordings; the speech is of neither training nor calibration."""
    validation = [entry for entry in entries("validation") if entry["task"] == "asr"]
    assert len(validation) == 30
    for split in ("calibration", "training"):
        learnt = entries(split)
        for of in ("path", "source_file", "text"):
            assert {e[of] for e in validation}.isdisjoint(e[of] for e in learnt if of in e), (split, of)
