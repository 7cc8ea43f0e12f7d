"""Whole annotation files: order, counts, and the list of bad audio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm_compress.data.loading import batches, load_examples
from audiolm_compress.data.tasks import task_kind
from audiolm_compress.errors import DataError

FIXTURE = Path(__file__).parents[1] / "fixtures/upstream_parity/audio_preprocessing"


def annotation(
    folder: Path, seconds: list[float], tasks: list[str], name: str = "ann.json", **more: Any
) -> Path:
    items = []
    for index, (length, task) in enumerate(zip(seconds, tasks, strict=True)):
        file = f"{name}.{index}.wav"
        soundfile.write(folder / file, np.full(int(16_000 * length), 0.01 * (index + 1)), 16_000)
        items.append({"path": file, "text": f"text {index}", "task": task, **more})
    path = folder / name
    path.write_text(json.dumps({"annotation": items}))
    return path


def test_order_and_counts(tmp_path: Path) -> None:
    path = annotation(tmp_path, [0.5, 1.2, 30.5, 2.0], ["asr", "audiocaption", "asr", "asr"])
    loaded = load_examples(path)
    assert [example.text for example in loaded.examples] == ["text 0", "text 1", "text 2", "text 3"]
    assert [round(float(example.waveform[0]), 3) for example in loaded.examples] == [0.01, 0.02, 0.03, 0.04]
    assert loaded.examples[1].references == ("text 1",)
    assert loaded.counts() == {
        "clips": 4,
        "clips_asr": 3,
        "clips_audiocaption": 1,
        "padded": 1,
        "truncated": 1,
        "skipped": 0,
    }


def test_source_is_that_of_the_annotation(tmp_path: Path) -> None:
    named = annotation(tmp_path, [1.0], ["asr"], "named.json", source="LibriSpeech")
    nameless = annotation(tmp_path, [1.0], ["asr"], "nameless.json")
    assert [example.source for example in load_examples([named, nameless]).examples] == ["LibriSpeech", ""]


def test_bad_audio_stops_with_the_whole_list(tmp_path: Path) -> None:
    path = annotation(tmp_path, [1.0, 1.0, 1.0], ["asr"] * 3)
    (tmp_path / "ann.json.0.wav").unlink()
    (tmp_path / "ann.json.2.wav").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load_examples(path)
    message = str(caught.value)
    assert "2 of 3 audio files" in message and "on_bad_audio: skip" in message
    assert "ann.json.0.wav: missing" in message and "ann.json.2.wav: empty file" in message


def test_bad_audio_is_skipped_counted_and_never_replaced() -> None:
    loaded = load_examples(FIXTURE / "ann.json", on_bad_audio="skip")
    assert [example.id for example in loaded.examples] == ["long8k.wav", "mono22k.wav", "stereo44k.wav"]
    assert loaded.bad == [(str(FIXTURE / "does_not_exist.wav"), "missing")]
    assert loaded.counts()["skipped"] == 1


def test_skipping_everything_is_an_error(tmp_path: Path) -> None:
    path = annotation(tmp_path, [1.0], ["asr"])
    (tmp_path / "ann.json.0.wav").unlink()
    with pytest.raises(DataError, match="No usable clip is left"):
        load_examples(path, on_bad_audio="skip")


def test_limit_takes_tasks_in_turn(tmp_path: Path) -> None:
    path = annotation(tmp_path, [1.0] * 6, ["asr"] * 4 + ["audiocaption"] * 2)
    texts = [example.text for example in load_examples(path, limit=4).examples]
    assert texts == ["text 0", "text 1", "text 4", "text 5"]
    assert len(load_examples(path, limit=99).examples) == 6


def test_task_filter(tmp_path: Path) -> None:
    path = annotation(tmp_path, [1.0, 1.0], ["asr", "audiocaption"])
    assert [example.task for example in load_examples(path, tasks=["audiocaption"]).examples] == [
        "audiocaption"
    ]
    with pytest.raises(DataError, match="found only"):
        load_examples(path, tasks=["QA"])


def test_several_files_are_joined_but_ids_must_stay_unique(tmp_path: Path) -> None:
    first = annotation(tmp_path, [1.0], ["asr"], "one.json")
    second = annotation(tmp_path, [1.0], ["audiocaption"], "two.json")
    assert len(load_examples([first, second]).examples) == 2
    first = annotation(tmp_path, [1.0], ["asr"], "one.json", testset_id="same")
    second = annotation(tmp_path, [1.0], ["asr"], "two.json", testset_id="same")
    with pytest.raises(DataError, match="more than one file: same"):
        load_examples([first, second])


def test_texts_of_several_files_are_refused(tmp_path: Path) -> None:
    path = annotation(tmp_path, [1.0], ["asr"], expand_wav=["more.wav"])
    with pytest.raises(DataError, match=r"1 entries have further files \(expand_wav\).*join"):
        load_examples(path)
    assert len(load_examples(annotation(tmp_path, [1.0], ["asr"], expand_wav=[])).examples) == 1


def test_batches_hold_one_task_each(tmp_path: Path) -> None:
    path = annotation(tmp_path, [1.0] * 5, ["asr", "audiocaption", "asr", "asr", "audiocaption"])
    groups = [[example.text[-1] for example in batch] for batch in batches(load_examples(path).examples, 2)]
    assert groups == [["0", "2"], ["3"], ["1", "4"]]


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("asr", "asr"),
        ("asr_zh", "asr"),
        ("audiocaption_v2", "aac"),
        ("aac", "aac"),
        ("QA", "qa"),
        ("translation_ec", "other"),
    ],
)
def test_task_kinds(task: str, kind: str) -> None:
    assert task_kind(task) == kind
