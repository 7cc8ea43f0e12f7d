"""Models measured together take turns, and only one of them is at work."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import soundfile
import torch

from audiolm_compress.errors import AudioLMError
from audiolm_compress.measurement import turns
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.measurement.process import Model, measure_together
from audiolm_compress.measurement.running import Running
from audiolm_compress.measurement.settings import BenchmarkSettings, ClipSource
from audiolm_compress.passes.base import Progress

from .recorder import Recorder

SETTINGS = BenchmarkSettings.model_validate(
    {
        "batch_size": 2,
        "decode": {"asr": {"max_new_tokens": 2}},
        "latency": {"clips": 2, "warmup": 0, "rounds": 2, "transformers": False, "batch_sizes": [2]},
        "noise_protocol": {"warmup": 0, "iterations": 1},
    }
)


@pytest.fixture
def clips(tmp_path: Path, clips: list[torch.Tensor]) -> ClipSource:
    items = []
    for index in range(2):
        soundfile.write(tmp_path / f"{index}.wav", clips[1].numpy(), 16_000)
        items.append({"path": f"{index}.wav", "text": "some words", "task": "asr", "testset_id": index})
    (tmp_path / "test.json").write_text(json.dumps({"annotation": items}))
    return ClipSource(test=(str(tmp_path / "test.json"),))


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Filled with the name of each process that was let go on, and where it paused then."""
    found: list[tuple[str, str | None]] = []
    proceed = Running.proceed

    def noted(self: Running) -> str | None:
        moment = proceed(self)
        found.append((self._name, moment))
        return moment

    monkeypatch.setattr(Running, "proceed", noted)
    return found


def measured(parity: Path, clips: ClipSource, progress: Progress | None = None) -> list[Measurements]:
    sources = {"a": parity / "llama" / "config.yaml", "b": parity / "gemma" / "config.yaml"}
    models = [Model(name, source) for name, source in sources.items()]
    return measure_together(models, clips, SETTINGS, progress=progress)


@pytest.mark.slow
def test_rounds_alternate_and_answers_come_one_model_at_a_time(
    parity: Path, clips: ClipSource, order: list[tuple[str, str | None]]
) -> None:
    progress = Recorder()
    found = measured(parity, clips, progress)
    moments = ["turn", "turn", "turn", "timed", "answered", "turn", None]  # two of clips, noise; the batch
    assert [moment for name, moment in order if name == "a"] == moments
    assert [name for name, _ in order] == [*"ab", *"ab", *"ba", *"ab", *"ba", *"ab", *"ba"]
    assert [moment for _, moment in order] == [moment for moment in moments for _ in "ab"]
    assert [line[0] for line in progress.lines] == [
        "a: loading the model",
        "b: loading the model",
        "a and b: timing answers",
        "a and b: timing the upstream protocol",
        "b: answering all clips",
        "a: answering all clips",
        "a and b: timing batches of 2",
    ]
    assert all(line[1] == line[2] for line in progress.lines)
    for side in found:
        assert any(note.startswith("timed in turns") and note.endswith(": a, b") for note in side.notes)
        assert [batch.size for batch in side.batches] == [2]
        assert Measurements.from_dict(json.loads(json.dumps(side.to_dict()))) == side
    assert found[0].source != found[1].source
    assert found[0].environment["data"] == found[1].environment["data"]


@pytest.mark.slow
def test_models_that_leave_no_room_are_timed_alone(
    parity: Path,
    clips: ClipSource,
    order: list[tuple[str, str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "_ROOM", 1e9)
    found = measured(parity, clips)
    names = [name for name, _ in order]
    assert names == sorted(names)
    first, last = ([note for note in side.notes if note.startswith("timed ")] for side in found)
    assert len(first) == len(last) == 1
    assert "GiB of memory were free" in first[0] and "left no memory" in last[0]


@pytest.mark.slow
def test_one_that_fails_ends_all(parity: Path, clips: ClipSource, tmp_path: Path) -> None:
    models = [Model("a", parity / "llama" / "config.yaml"), Model("b", tmp_path / "none.yaml")]
    with pytest.raises(AudioLMError, match="measuring the b: "):
        measure_together(models, clips, SETTINGS)
    assert not [
        child for child in psutil.Process().children() if "measurement.worker" in str(child.cmdline())
    ]
