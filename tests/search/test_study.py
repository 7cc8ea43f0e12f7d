"""Rules that processes share through the storage: what counts, who runs what, what becomes of the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from audiolm_compress.errors import AudioLMError
from audiolm_compress.search.owner import Watch, this_process
from audiolm_compress.search.space import Space
from audiolm_compress.search.storage import open_storage
from audiolm_compress.search.study import Study, configuration_of, outcome

TEXT = """\
passes:
  - {pass: merge_lora}
  - pass: gptq
    bits: {choose: [3, 4]}
    group_size: {choose: [32, 64, 128]}
"""
PLACES = ("study.db", "study.journal")


@pytest.fixture
def space(tmp_path: Path) -> Space:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return Space.read(file, (), None)


def opened(folder: Path, space: Space, place: str = PLACES[0]) -> Study:
    return Study(open_storage(str(folder / place)), "study", space, [False, True])


def finish(study: Study, trial: optuna.Trial) -> None:
    first, second = trial.user_attrs["configuration"]
    study.measured(trial, [float(first), float(second)])


def outcomes(study: Study) -> list[str]:
    return [outcome(trial) for trial in study.trials()]


@pytest.mark.parametrize("place", PLACES)
def test_every_configuration_is_run_once_and_the_usual_first(
    tmp_path: Path, space: Space, place: str
) -> None:
    """More trials than configurations: proposals repeat, runs do not, and the search ends."""
    study = opened(tmp_path, space, place)
    run = []
    while (trial := study.claim(50)) is not None:
        run.append(tuple(trial.user_attrs["configuration"]))
        if run[-1] == (1, 1):
            study.refused(trial, "impossible")
        else:
            finish(study, trial)
    assert run[0] == (0, 0)
    assert len(run) == len(set(run)) == space.size
    assert outcomes(study).count("measured") == space.size - 1
    assert outcomes(study).count("refused") == 1
    parameters = [trial.params for trial in study.trials() if configuration_of(trial) == (1, 2)]
    assert {"passes.1.bits": "4", "passes.1.group_size": "128"} in parameters


def test_two_processes_share_the_trials_and_the_count(tmp_path: Path, space: Space) -> None:
    """Each waits for the other on the last trial, and goes on when it is done."""
    ours, theirs = opened(tmp_path, space), opened(tmp_path, space)
    first, second = ours.claim(2), theirs.claim(2)
    assert first is not None and second is not None
    assert first.user_attrs["configuration"] != second.user_attrs["configuration"]
    finish(ours, first)
    found: list[optuna.Trial | None] = []
    waiting = threading.Thread(target=lambda: found.append(opened(tmp_path, space).claim(2)))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive(), "one is measured and one is running: there is nothing to begin"
    finish(theirs, second)
    waiting.join(30)
    assert found == [None]
    assert [name for name in outcomes(ours) if name == "measured"] == ["measured"] * 2


@pytest.mark.parametrize("place", PLACES)
def test_processes_that_begin_at_once_never_take_one_trial_twice(
    tmp_path: Path, space: Space, place: str
) -> None:
    studies = [opened(tmp_path, space, place) for _ in range(4)]
    together = threading.Barrier(len(studies))

    def claim(study: Study) -> optuna.Trial | None:
        together.wait()
        return study.claim(len(studies))

    with ThreadPoolExecutor(len(studies)) as pool:
        trials = [trial for trial in pool.map(claim, studies) if trial is not None]
    assert len({trial.number for trial in trials}) == len(studies)
    assert len({tuple(trial.user_attrs["configuration"]) for trial in trials}) == len(studies)


CLAIM = """
import sys, time
from pathlib import Path
from audiolm_compress.search.space import Space
from audiolm_compress.search.storage import open_storage
from audiolm_compress.search.study import Study
folder, place = Path(sys.argv[1]), sys.argv[2]
space = Space.read(folder / "recipe.yaml", (), None)
trial = Study(open_storage(str(folder / place)), "study", space, [False, True]).claim(1)
print(trial.number, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_process_loses_its_trial_and_nothing_else(tmp_path: Path, space: Space, place: str) -> None:
    """The only trial that is wanted is taken over as soon as its process is dead."""
    command = [sys.executable, "-c", CLAIM, str(tmp_path), place]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other.stdout:
        assert other.stdout.readline() == "0\n"
        study = opened(tmp_path, space, place)
        assert outcomes(study) == ["running"]
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    trial = study.claim(1)
    assert trial is not None
    assert trial.user_attrs["configuration"] == [0, 0], "what was lost may be tried again"
    finish(study, trial)
    assert [name for name in outcomes(study) if name in ("lost", "measured")] == ["lost", "measured"]
    assert study.claim(1) is None


def test_what_ends_the_process_loses_the_trial_at_once(tmp_path: Path, space: Space) -> None:
    study = opened(tmp_path, space)
    trial = study.claim(1)
    assert trial is not None
    with pytest.raises(KeyboardInterrupt), study.working(trial):
        raise KeyboardInterrupt
    (lost,) = study.trials()
    assert (outcome(lost), lost.user_attrs["message"]) == ("lost", "KeyboardInterrupt")
    assert study.claim(1) is not None


def test_a_process_elsewhere_is_given_up_when_its_heart_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("audiolm_compress.search.owner.time.monotonic", lambda: now)
    watch, owner = Watch(), this_process() | {"machine": "another"}
    assert not watch.is_lost(3, owner, 1)
    now = 170.0
    assert not watch.is_lost(3, owner, 1)
    assert not watch.is_lost(3, owner, 2), "it has beaten"
    now = 340.0
    assert not watch.is_lost(3, owner, 2)
    now = 351.0
    assert watch.is_lost(3, owner, 2)
    alive, moved = this_process(), this_process() | {"started": 1.0}
    assert not watch.is_lost(4, alive, None)
    assert not watch.is_lost(5, moved, 1), "the clock may have been set"
    now = 600.0
    assert not watch.is_lost(4, alive, None), "this one is alive without a heartbeat"
    assert watch.is_lost(5, moved, 1), "a later process has its number"
    assert not watch.is_lost(6, alive | {"system": "another", "process": 2**30}, 1), "its numbers are others"


def test_a_search_of_impossible_configurations_ends(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT.replace("[3, 4]", "[2, 3, 4, 8]"), encoding="utf-8")
    study = opened(tmp_path, Space.read(file, (), None))
    with pytest.raises(AudioLMError, match="all 10 configurations so far are impossible; the last: number 9"):
        for number in range(12):
            trial = study.claim(5)
            assert trial is not None
            study.refused(trial, f"number {number}")


def test_another_recipe_cannot_go_on_with_the_study(tmp_path: Path, space: Space) -> None:
    opened(tmp_path, space)
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT.replace("[3, 4]", "[3, 4, 8]"), encoding="utf-8")
    with pytest.raises(AudioLMError, match=r"changed since: passes\.1\.bits\.choose\.2; go on with"):
        opened(tmp_path, Space.read(file, (), None))


def test_a_folder_belongs_to_one_study(tmp_path: Path, space: Space) -> None:
    """Trials are numbered by study: those of a second one would be written over the first's."""
    opened(tmp_path, space).own(tmp_path)
    opened(tmp_path, space).own(tmp_path)
    renamed = Study(open_storage(str(tmp_path / PLACES[0])), "other", space, [False, True])
    with pytest.raises(AudioLMError, match=r"holds the study 'study'; 'other' in this storage is another"):
        renamed.own(tmp_path)
    with pytest.raises(AudioLMError, match="begin in another folder: --out"):
        opened(tmp_path, space, PLACES[1]).own(tmp_path)


@pytest.mark.parametrize("place", ["gone/study.db", "gone/study.journal", "nosuch://me:secret@host/trials"])
def test_a_storage_that_cannot_be_opened_is_named(tmp_path: Path, place: str) -> None:
    asked = place if "://" in place else str(tmp_path / place)
    with pytest.raises(AudioLMError, match=r"cannot open the storage .*; give a file in a folder") as caught:
        open_storage(asked)
    assert "secret" not in str(caught.value)
