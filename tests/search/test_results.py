"""What is made of a study's trials: the best is kept though not of the front, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from audiolm_compress.errors import AudioLMError
from audiolm_compress.measurement.measurements import Measurements, Memory
from audiolm_compress.recipe import load_recipe
from audiolm_compress.report import Report
from audiolm_compress.search.results import Results, trial_folder, write_results
from audiolm_compress.search.space import Space
from audiolm_compress.search.storage import open_storage
from audiolm_compress.search.study import Study

TEXT = """\
name: small
passes:
  - {pass: merge_lora}
  - {pass: gptq, bits: {choose: [2, 3, 4, 8]}}
goals: {peak_memory_ratio: 0.5}
search: {objectives: [weights, wer], trials: 4}
"""
Measured = Callable[..., Measurements]


@pytest.fixture
def space(tmp_path: Path) -> Space:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return Space.read(file, (), None)


@pytest.fixture
def study(tmp_path: Path, space: Space) -> Study:
    return Study(open_storage(str(tmp_path / "study.db")), "small", space, [False, False])


def folder_of(study: Study, folder: Path) -> tuple[optuna.Trial, Path]:
    """A trial that has written its model."""
    trial = study.claim(9)
    assert trial is not None
    work = trial_folder(folder, trial.number)
    work.mkdir(parents=True)
    (work / "model.safetensors").touch()
    return trial, work


def finish(study: Study, folder: Path, before: Measurements, values: tuple[float, float], peak: int) -> None:
    trial, work = folder_of(study, folder)
    after = replace(before, memory=Memory(peak, None, None, ""))
    report = Report.of(before, after, environment={})
    (work / "report.json").write_text(report.to_json(), encoding="utf-8")
    study.measured(trial, values)


def test_the_best_is_shown_and_kept_beside_the_front(
    tmp_path: Path, space: Space, study: Study, measured: Measured
) -> None:
    """Trial 0 misses the goal and dominates both others, of which 1 is the smaller."""
    before = measured()
    for values, peak in (((0.2, 0.1), 9), ((0.3, 0.2), 4), ((0.4, 0.1), 4)):
        finish(study, tmp_path, before, values, peak * 2**20)
    recipe = space.recipe((0,))
    results = Results.of(study, recipe, tmp_path)
    assert (results.front, results.best, results.shown) == ((0,), 1, [0, 1])
    assert results.why.endswith("trials that miss goals dominate it")
    write_results(results, space, study, tmp_path, keep_models=False)
    kept = {path.parent.name for path in tmp_path.rglob("model.safetensors")}
    assert kept == {"0000", "0001"}
    picked = results.trial(1).picked["passes.1.bits"]
    assert [entry.bits for entry in load_recipe(tmp_path / "best.yaml").passes[1:]] == [picked]
    assert load_recipe(tmp_path / "best.yaml").name == "small_best"


def test_of_trials_that_came_to_nothing_no_model_is_left(tmp_path: Path, space: Space, study: Study) -> None:
    lost, work = folder_of(study, tmp_path)
    with pytest.raises(KeyboardInterrupt), study.working(lost):
        raise KeyboardInterrupt  # after the model was written, before the study knew
    refused, beside = folder_of(study, tmp_path)
    study.refused(refused, "TPOT was not measured")
    results = Results.of(study, space.recipe((0,)), tmp_path)
    write_results(results, space, study, tmp_path, keep_models=False)
    assert not work.exists()
    assert beside.exists() and not (beside / "model.safetensors").exists()


def test_trials_that_are_elsewhere_are_asked_for(
    tmp_path: Path, space: Space, study: Study, measured: Measured
) -> None:
    finish(study, tmp_path, measured(), (0.2, 0.1), 2**20)
    with pytest.raises(AudioLMError, match=r"trial 0 was measured, but its report .* is gone"):
        Results.of(study, space.recipe((0,)), tmp_path / "another")
