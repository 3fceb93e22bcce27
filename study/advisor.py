"""Optuna: proposes rows, and mirrors the study's table for its dashboard.

The table on disk is the truth. A proposal is a function of the seed, the row's number and how the
other rows stand; whatever the storage has lost or holds too much of is made anew from the table.
"""

import math
import re
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

from cityseg.config import Config
from cityseg.errors import InputError
from study.parameters import as_scalar
from study.progress import RowProgress
from study.space import Choices, Parameters, Range, Search, value_of
from study.storage import one_line_errors, open_storage
from study.store import Study, StudyRecord, variant_name

OWNER: Final = "cityseg_study"
"""Attribute of an Optuna study: the id of the study that it mirrors."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Advisor:
    """A study's counterpart in an Optuna storage."""

    def __init__(self, study: Study, record: StudyRecord, storage: str):
        """Open the storage, making what is not there.

        Args:
            study: the study's folder.
            record: of the study.
            storage: `sqlite`, `journal` (both in the study's folder), or a database's URL.

        Raises:
            InputError: the storage cannot be opened, or holds another study of this name.
        """
        self._base = record.config
        self._search = record.search
        self._name = record.name
        self._id = record.id
        self._distributions = {
            key: _distribution(dimension) for key, dimension in sorted(record.search.space.items())
        }
        self._where = storage
        with one_line_errors(storage):
            self._storage = open_storage(storage, study.folder)
            self._study_id = self._open_study()
        self._trials: dict[int, FrozenTrial] = {}
        """Of each variant, the last trial."""

    def propose(self, variant: int) -> Parameters:
        """Values for a new row, by the sampler. The same table gives the same values again.

        The sampler works on a copy in memory: in the storage a trial would be there before all of
        its values were, and a kill in between would leave it so. The copy holds the rows in order,
        while the order of the storage depends on which were tried again; and only rows within the
        space, for a sampler learns jointly of no more keys than all rows have.
        """
        sampler = _sampler(self._search, self._base, variant)
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        rows = (trial for _, trial in sorted(self._trials.items()))
        copy.add_trials(row for row in rows if row.params.keys() == self._distributions.keys())
        values = copy.ask(self._distributions).params
        return {key: self._decode(key, values[key]) for key in self._distributions}

    def synchronise(self, rows: list[RowProgress]) -> None:
        """Make the storage say what the table says, once, when a driver starts.

        Raises:
            InputError: the storage cannot be used any more.
        """
        with one_line_errors(self._where):
            trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
            if not self._fits(trials, {row.variant: row for row in rows}):
                self._storage.delete_study(self._study_id)
                self._study_id = self._open_study()
                trials = []
        self._trials = {_variant(trial): trial for trial in trials}
        for row in rows:
            self.mirror(row)

    def mirror(self, row: RowProgress) -> None:
        """Pass on how a row stands. Passing on the same twice changes nothing.

        Raises:
            InputError: the storage cannot be used any more.
        """
        trial = self._trials.get(row.variant)
        with one_line_errors(self._where):
            if trial is None or (
                trial.state.is_finished() and trial.state != _state(row, self._search)
            ):
                trial = self._add(row)
            if not trial.state.is_finished():
                self._pass_on(row, trial)

    def _add(self, row: RowProgress) -> FrozenTrial:
        """A trial of the row's own; a failed row that is tried again gets another one."""
        number = self._storage.create_new_trial(self._study_id, template_trial=self._trial_of(row))
        self._trials[row.variant] = self._storage.get_trial(number)
        return self._trials[row.variant]

    def _trial_of(self, row: RowProgress) -> FrozenTrial:
        """The row's values; those outside of the space, which Optuna refuses, as attributes."""
        values = {key: value_of_row(row, self._base, key) for key in self._distributions}
        encoded = {key: as_scalar(value) for key, value in values.items()}
        inside = {
            key: self._distributions[key]
            for key, value in encoded.items()
            if self._contains(key, value)
        }
        others = {key: value for key, value in row.parameters.items() if key not in inside}
        return create_trial(
            state=TrialState.RUNNING,
            params={key: encoded[key] for key in inside},
            distributions=inside,
            user_attrs={"variant": variant_name(row.variant), "origin": row.row.origin, **others},
        )

    def _pass_on(self, row: RowProgress, trial: FrozenTrial) -> None:
        number = trial._trial_id  # the storages' own key, which FrozenTrial does not publish
        for cell in row.cells:
            key = f"fold {cell.fold}"
            if cell.status == "done" and key not in trial.user_attrs:
                score = cell.score(self._search.objective)
                score = None if math.isnan(score) else score  # JSON has no NaN
                self._storage.set_trial_user_attr(number, key, score)
        state = _state(row, self._search)
        if state != TrialState.RUNNING:
            for epoch, score in enumerate(_means(row, self._search), 1):
                self._storage.set_trial_intermediate_value(number, epoch, score)
            if row.reason:
                self._storage.set_trial_user_attr(number, "reason", row.reason)
            values = [row.score(self._search.objective)] if state == TrialState.COMPLETE else None
            self._storage.set_trial_state_values(number, state, values)
        self._trials[row.variant] = self._storage.get_trial(number)

    def _open_study(self) -> int:
        studies = self._storage.get_all_studies()
        known = next((study for study in studies if study.study_name == self._name), None)
        if known is None:
            study_id = self._storage.create_new_study([StudyDirection.MAXIMIZE], self._name)
        else:
            study_id = known._study_id
            self._check_owner(known)
        self._storage.set_study_user_attr(study_id, OWNER, self._id)
        study = optuna.load_study(study_name=self._name, storage=self._storage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([f"mean mIoU ({self._search.objective})"])
        return study_id

    def _check_owner(self, known: FrozenStudy) -> None:
        """One without owner and trials is ours, too: a start was killed before it was named so."""
        owner = known.user_attrs.get(OWNER)
        empty = not self._storage.get_n_trials(known._study_id)
        if owner != self._id and not (
            owner is None and empty and known.directions == [StudyDirection.MAXIMIZE]
        ):
            raise InputError(
                f"the storage holds another study named {self._name}",
                remedy="give another --name",
            )

    def _fits(self, trials: list[FrozenTrial], rows: dict[int, RowProgress]) -> bool:
        return all(self._is_of(trial, rows.get(_variant(trial))) for trial in trials)

    def _is_of(self, trial: FrozenTrial, row: RowProgress | None) -> bool:
        if row is None:
            return False
        ours = self._trial_of(row)
        if (trial.params, trial.distributions) != (ours.params, ours.distributions):
            return False
        if trial.state == TrialState.COMPLETE and trial.value != row.score(self._search.objective):
            return False
        settled = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return not settled or trial.state == _state(row, self._search)

    def _contains(self, key: str, value: Any) -> bool:
        distribution = self._distributions[key]
        try:
            return distribution._contains(distribution.to_internal_repr(value))
        except ValueError:  # none of the choices
            return False

    def _decode(self, key: str, value: Any) -> Any:
        dimension = self._search.space[key]
        if isinstance(dimension, Choices):
            return next(c for c in dimension.choices if as_scalar(c) == value)
        return value


def value_of_row(row: RowProgress, base: Config, key: str) -> Any:
    """What a row has at a key: its own value, else the base configuration's."""
    return row.parameters[key] if key in row.parameters else value_of(base, key)


def _distribution(dimension: Range | Choices) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution([as_scalar(choice) for choice in dimension.choices])
    low, high, step, log = dimension.low, dimension.high, dimension.step, dimension.log
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _sampler(search: Search, config: Config, variant: int) -> BaseSampler:
    """A fresh sampler for each proposal: it depends on seed, number and scores, on nothing else."""
    seed = config.seed if search.seed is None else search.seed
    draw = int(np.random.SeedSequence((seed, variant)).generate_state(1)[0])
    makers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=draw),
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=draw, n_startup_trials=search.startup, constant_liar=True, multivariate=True
        ),
        "gp": lambda: optuna.samplers.GPSampler(seed=draw, n_startup_trials=search.startup),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return makers[search.sampler]()


def _variant(trial: FrozenTrial) -> int:
    """-1 for a trial that is not ours."""
    name = re.fullmatch(r"v(\d+)", str(trial.user_attrs.get("variant")))
    return int(name[1]) if name else -1


def _state(row: RowProgress, search: Search) -> TrialState:
    if row.status == "done":
        finite = np.isfinite(row.score(search.objective))
        return TrialState.COMPLETE if finite else TrialState.FAIL
    states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    return states.get(row.status, TrialState.RUNNING)


def _means(row: RowProgress, search: Search) -> list[float]:
    """Mean over the folds after each epoch that all of them have finished."""
    curves = [cell.curve(search.objective) for cell in row.cells]
    shortest = min(len(curve) for curve in curves)
    return [float(np.mean([curve[epoch] for curve in curves])) for epoch in range(shortest)]
