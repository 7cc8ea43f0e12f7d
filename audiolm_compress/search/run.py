"""The search as a loop: claim a configuration, run it, tell the study; in the end the front and the best."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm_compress.devices import choose_device
from audiolm_compress.errors import AudioLMError, BaselineError, DataError, MachineError
from audiolm_compress.passes.base import Progress, Silent
from audiolm_compress.pipeline import apply_recipe
from audiolm_compress.search.baseline import shared_baseline
from audiolm_compress.search.objectives import OBJECTIVES, require_measured, values
from audiolm_compress.search.space import Space
from audiolm_compress.training.shards import processes

if TYPE_CHECKING:
    from audiolm_compress.search.results import Results

_NEEDS = ("optuna", "matplotlib", "filelock")


def search_recipe(
    recipe: str | Path,
    *,
    baseline: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    storage: str | None = None,
    keep_models: bool = False,
    progress: Progress | None = None,
) -> Results:
    """Explore the choices of a recipe, or go on with a study that was begun.

    Every process that is given the same recipe, ``out`` and ``storage`` works on the same study, on one
    machine or on several that share the folder. Times are ratios to the baseline as measured on the trial's
    own machine; processes that run beside each other on one machine disturb each other's times.

    Args:
        recipe: YAML file with choices.
        baseline: in place of the recipe's.
        out: folder of the study; default ``out/<recipe name>``. Each trial's report lies in ``trials/NNNN``.
        device: where models run; default: cuda if there is one.
        overrides: changes to the recipe, such as ``search.trials=12``.
        storage: database URL or file (``.journal``: a journal); default ``study.db`` in ``out``.
        keep_models: keep the weights of all trials, not only of those on the Pareto front.
        progress: where to show the state.

    Returns:
        All trials, the Pareto front and the best; the same is in the study's folder.

    Raises:
        AudioLMError: recipe, baseline or data cannot be used, optuna is not installed, or several processes
            were launched together.
    """
    if processes().num_processes > 1:
        raise AudioLMError(
            f"search: runs in one process, but {processes().num_processes} were launched together; start "
            "the same command plainly, as often as you like: all work on one study"
        )
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise AudioLMError(
            f"search: {', '.join(missing)} not installed; pip install 'audiolm-compress[search]'"
        )
    from filelock import FileLock

    from audiolm_compress.search.results import Results, trial_folder, write_results
    from audiolm_compress.search.storage import open_storage
    from audiolm_compress.search.study import Study

    space = Space.read(recipe, overrides, baseline)
    usual = space.recipe((0,) * len(space.choices))
    objectives = usual.search.objectives
    device, progress = choose_device(device), progress or Silent()
    folder = Path("out", usual.name) if out is None else Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioLMError(
            f"search: cannot make the folder {folder}: {error.strerror}; --out names another"
        ) from None
    maximize = [OBJECTIVES[name].maximize for name in objectives]
    with FileLock(folder / "study.lock"):  # Optuna's tables must not be made by two processes at once
        study = Study(open_storage(storage or str(folder / "study.db")), usual.name, space, maximize)
        study.own(folder)
    Results.of(study, usual, folder)  # refuses a folder without the trials of this study before any work
    before = shared_baseline(folder, usual, device, progress)
    require_measured(before, objectives)
    while (trial := study.claim(usual.search.trials)) is not None:
        with study.working(trial):
            picked = ", ".join(f"{name}={value}" for name, value in trial.user_attrs["picked"].items())
            progress.stage(f"trial {trial.number}: {picked}")
            try:
                decided = space.recipe(tuple(trial.user_attrs["configuration"]))
                work = trial_folder(folder, trial.number)
                run = apply_recipe(
                    decided, out=work, device=device, progress=progress, before=before, resume=False
                )
                found = values(run.report, objectives)
                del run  # its model would stay in memory beside the next
            except (BaselineError, DataError, MachineError):
                raise  # no configuration would change that
            except AudioLMError as error:
                study.refused(trial, str(error))
            else:
                study.measured(trial, found)
        write_results(Results.of(study, usual, folder), space, study, folder, keep_models)
    results = Results.of(study, usual, folder)
    write_results(results, space, study, folder, keep_models)
    return results
