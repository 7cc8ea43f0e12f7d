"""The study: what several processes share in one storage (``storage.py``), and the rules they keep.

A trial ends in one of these ways:

* ``measured``: run to its end; these are counted.
* ``refused``: the configuration is impossible; its message is kept and it is not tried again.
* ``lost``: its process was killed or interrupted; the configuration may be tried again.
* ``repeated``: proposed again, so it is not run: what was measured, or is being measured, stands.
* ``withdrawn``: begun when others were already on the last ones.

Configurations are proposed by the multi-objective Tree-structured Parzen Estimator (Ozaki et al.,
https://doi.org/10.1145/3377930.3389817): trials are expensive and few, and an evolutionary search would spend
as many on its first generation.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from audiolm_compress.errors import AudioLMError
from audiolm_compress.recipe_choices import Choice
from audiolm_compress.search.baseline import write_whole
from audiolm_compress.search.owner import Watch, heartbeat, this_process
from audiolm_compress.search.space import Configuration, Space
from audiolm_compress.untrusted import read_json

_OWNER = "study.json"
_POLL_SECONDS = 1.0
_HOPELESS = 10  # configurations refused without one that can be measured


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended; ``running`` if it has not."""
    if trial.state == TrialState.COMPLETE:
        return "measured"
    return str(trial.user_attrs.get("outcome", "lost")) if trial.state.is_finished() else "running"


def configuration_of(trial: FrozenTrial) -> Configuration | None:
    """What it tries; None while it does not yet know."""
    found = trial.user_attrs.get("configuration")
    return None if found is None else tuple(found)


class Study:
    """One process's view of the study."""

    def __init__(self, storage: BaseStorage, name: str, space: Space, maximize: Sequence[bool]) -> None:
        """Open the study, or begin it.

        Raises:
            AudioLMError: it was begun with another recipe.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._watch = space, Watch()
        self._decided: Configuration | None = None  # what to propose next
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["maximize" if more else "minimize" for more in maximize],
            load_if_exists=True,
        )
        entries = _flat(space.entries())
        begun = self._study.user_attrs.get("entries")
        if begun is None:
            begun = entries
            self._study.set_user_attr("entries", entries)
        if "identity" not in self._study.user_attrs:
            self._study.set_user_attr("identity", uuid.uuid4().hex)
        changed = sorted(key for key in begun.keys() | entries.keys() if begun.get(key) != entries.get(key))
        if changed:
            raise AudioLMError(
                f"search: the study {name!r} was begun with another recipe; changed since: "
                f"{', '.join(changed)}; go on with the old one or begin anew in another folder: --out"
            )

    def own(self, folder: Path) -> None:
        """Mark ``folder`` as this study's, whose trials are in it under their numbers.

        Raises:
            AudioLMError: it is another study's, whose trials would be written over.
        """
        file = folder / _OWNER
        mine = {"name": self._study.study_name, "identity": self._study.user_attrs["identity"]}
        try:
            found = read_json(file) if file.exists() else mine
            owner = found["name"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise AudioLMError(
                f"search: {file} is damaged ({error}); remove it if the study is this one"
            ) from error
        if found != mine:
            raise AudioLMError(
                f"search: {folder} holds the study {owner!r}; {mine['name']!r} in this storage is "
                "another; go on with its recipe and storage, or begin in another folder: --out"
            )
        write_whole(file, json.dumps(mine) + "\n")

    def trials(self) -> list[FrozenTrial]:
        """All of them, whoever ran them, as they are now."""
        return self._study.get_trials(deepcopy=False)

    def claim(self, wanted: int) -> optuna.Trial | None:
        """The next trial for this process; None when there are enough or none is left to try.

        Waits while other processes are on the last ones, and takes over what they lose.

        Args:
            wanted: how many are to be measured in all.

        Raises:
            AudioLMError: one configuration after the other is refused.
        """
        while True:
            trials = self._living()
            if sum(outcome(trial) == "measured" for trial in trials) >= wanted:
                return None
            tried = {found for trial in trials if (found := configuration_of(trial)) is not None}
            running = sum(outcome(trial) == "running" for trial in trials)
            if len(tried) == self._space.size and not running:
                return None
            if _taken(trials) >= wanted or len(tried) == self._space.size:
                time.sleep(_POLL_SECONDS)
                continue
            _stop_if_hopeless(trials)
            mine = self._propose(len(self.trials()), tried)
            if self._is_mine(mine, wanted):
                return mine

    @contextmanager
    def working(self, trial: optuna.Trial) -> Iterator[None]:
        """Inside, others see that the trial is worked on; what ends the process makes it lost."""

        def beat(count: int) -> None:
            # Others may have given it up, after the machine slept.
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                trial.set_user_attr("beat", count)

        try:
            with heartbeat(beat):
                yield
        except BaseException as error:
            self._fail(trial, "lost", type(error).__name__)
            raise

    def measured(self, trial: optuna.Trial, values: Sequence[float]) -> None:
        """The trial has run to its end."""
        self._study.tell(trial, list(values), skip_if_finished=True)

    def refused(self, trial: optuna.Trial, message: str) -> None:
        """The configuration is impossible."""
        self._fail(trial, "refused", message)

    def _fail(self, trial: optuna.Trial, how: str, message: str) -> None:
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr("outcome", how)
            trial.set_user_attr("message", message)
        self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _living(self) -> list[FrozenTrial]:
        """Trials that count for what is still to be tried; those whose process is gone are given up."""
        kept = []
        for trial in self.trials():
            if trial.state == TrialState.RUNNING:
                attributes = trial.user_attrs
                if self._watch.is_lost(trial.number, attributes.get("owner"), attributes.get("beat")):
                    self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                    continue
            if outcome(trial) in ("measured", "refused") or trial.state == TrialState.RUNNING:
                kept.append(trial)
        return kept

    def _propose(self, count: int, tried: set[Configuration]) -> optuna.Trial:
        """Ask Optuna; the first trial of a study takes the first option of every choice."""
        decided, self._decided = self._decided, None
        if not tried:
            decided = (0,) * len(self._space.choices)
        # Each proposal has a seed of its own: two processes must not draw the same numbers.
        self._study.sampler = (
            optuna.samplers.TPESampler(seed=self._seed(count))
            if decided is None
            else _Decided(self._space.choices, decided)
        )
        trial = self._study.ask()
        trial.set_user_attr("owner", this_process())
        picked = tuple(_suggest(trial, choice) for choice in self._space.choices)
        trial.set_user_attr("picked", self._space.picked(picked))
        trial.set_user_attr("configuration", list(picked))
        return trial

    def _is_mine(self, mine: optuna.Trial, wanted: int) -> bool:
        """Whether to run it. Of two processes at the same point, the one with the lower number goes first."""
        while True:
            earlier = [trial for trial in self._living() if trial.number < mine.number]
            if all(configuration_of(trial) is not None for trial in earlier):
                break
            time.sleep(_POLL_SECONDS)  # it is about to say what it tries
        if _taken(earlier) >= wanted:
            self._fail(mine, "withdrawn", "others were on the last ones")
            return False
        configuration = tuple(mine.user_attrs["configuration"])
        twin = next((trial for trial in earlier if configuration_of(trial) == configuration), None)
        if twin is None:
            return True
        self._fail(mine, "repeated", f"the same as trial {twin.number}")
        tried = {found for trial in earlier if (found := configuration_of(trial)) is not None}
        if len(tried) < self._space.size:
            self._decided = self._space.untried(tried, self._seed(mine.number))
        return False

    def _seed(self, number: int) -> int:
        return int(self._space.source.content.get("seed") or 0) * 100_003 + number


class _Decided(optuna.samplers.BaseSampler):
    """Proposes one configuration that is decided.

    Optuna's queue (``enqueue_trial``) is for that too, but in SQLite two processes can take the same trial
    from it: each reads that it is waiting before either writes that it runs.
    """

    def __init__(self, choices: Sequence[Choice], configuration: Configuration) -> None:
        pairs = zip(choices, configuration, strict=True)
        self._values = {c.name: index if c.is_range else _label(c, index) for c, index in pairs}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._values[param_name]


def _taken(trials: Sequence[FrozenTrial]) -> int:
    """How many are measured or being measured."""
    return sum(outcome(trial) in ("measured", "running") for trial in trials)


def _stop_if_hopeless(trials: Sequence[FrozenTrial]) -> None:
    refused = [trial for trial in trials if outcome(trial) == "refused"]
    if len(refused) >= _HOPELESS and len(refused) == len(trials):
        raise AudioLMError(
            f"search: all {len(refused)} configurations so far are impossible; the last: "
            f"{refused[-1].user_attrs['message']}"
        )


def _suggest(trial: optuna.Trial, choice: Choice) -> int:
    """The number of the option that Optuna proposes. Ranges have an order, lists have none."""
    if choice.is_range:
        return trial.suggest_int(choice.name, 0, len(choice.options) - 1)
    labels = [_label(choice, index) for index in range(len(choice.options))]
    return labels.index(trial.suggest_categorical(choice.name, labels))


def _label(choice: Choice, index: int) -> str:
    """An option as text: Optuna keeps no lists and mappings, and takes 1 and true for the same."""
    return json.dumps(choice.options[index])


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    """Key path -> value of everything in ``node``."""
    if isinstance(node, Mapping):
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list | tuple):
        items = [(str(index), value) for index, value in enumerate(node)]
    else:
        return {path: node}
    return {
        name: value
        for key, inner in items
        for name, value in _flat(inner, f"{path}.{key}".lstrip(".")).items()
    }
