"""The search without Ray: which cell is next, what closes a row, and whatever is killed meanwhile.

A driver of a few lines stands for Ray Tune, and a trainer that makes its scores up for the network.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from fake_study import EPOCHS, make_study
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from cityseg import atomic
from cityseg.cell import Confusion, Counts, Epoch, read_epochs, write_confusion, write_epochs
from cityseg.labels import NUM_CLASSES
from study.advisor import Advisor
from study.progress import Board, RowProgress
from study.pruning import RowCurves, Verdict
from study.schedule import Cell, Schedule
from study.space import Choices, Range, Search
from study.store import Study

SPACE: dict[str, Range | Choices] = {
    "train.lr": Range(low=1e-5, high=1e-2, log=True),
    "train.batch_size": Choices(choices=[2, 4]),
}
SEARCH = Search(
    variants=5, rows=[{"train.lr": 2e-3}], space=SPACE, startup=3, prune=True, objective="best_full"
)
HOPELESS = 3
"""The row that the simple rule below prunes."""


class Killed(BaseException):
    """The process is gone: no code of ours may catch it."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def _simple_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune one row when its second fold has two epochs, if another row is finished then."""

    def judge(candidate: RowCurves, others: list[RowCurves], folds: int) -> Verdict:
        finished = [r for r in others if len(r.curves) == folds and r.variant != candidate.variant]
        late = len(candidate.curves.get(2, ())) >= 2
        prune = candidate.variant == HOPELESS and late and bool(finished)
        return Verdict(prune, f"behind v{finished[0].variant:03d}" if prune else "kept")

    monkeypatch.setattr("study.schedule.judge", judge)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> InMemoryStorage:
    """Survives a killed driver, as a database does."""
    storage = InMemoryStorage()
    monkeypatch.setattr("study.advisor.open_storage", lambda *_: storage)
    return storage


def start(study: Study, closed: Callable[[RowProgress], None] = lambda row: None) -> Schedule:
    """As a driver does when it starts."""
    record = study.read()
    advisor = Advisor(study, record, "sqlite") if record.search.space else None
    return Schedule(Board.read(study), advisor, closed)


class Trainer:
    """Trains cells: an epoch at a time, from wherever a cell stands on disk."""

    def __init__(self, study: Study):
        self.study = study
        self.broken: set[Cell] = set()
        """Cells that fail at their second epoch."""
        self._rates: dict[int, float] = {}
        self.trained: list[tuple[int, int, int]] = []
        """Variant, fold and epoch of all that was trained."""

    def step(self, variant: int, fold: int) -> bool:
        """One epoch more, or the end of the cell. Returns whether it has ended."""
        cell = self.study.cell(variant, fold)
        assert cell.status() != "done", "a finished cell is trained again"
        epochs = read_epochs(cell.epochs)
        cell.failure.unlink(missing_ok=True)
        if len(epochs) == EPOCHS:
            counts = np.zeros((1, NUM_CLASSES, NUM_CLASSES), np.int64)
            counts = Counts(EPOCHS, counts, counts)
            write_confusion(cell.confusion, Confusion(["a"], counts, counts))
            return True
        if (variant, fold) in self.broken and epochs:
            atomic.write_text(cell.failure, "loss is nan\n")
            return True
        n = len(epochs) + 1
        self.trained.append((variant, fold, n))
        score = self._score(variant, fold, n)
        epoch = Epoch(n, 1 / n, 1 / n, score, score / 2, 1e-4, 1.0, 1.0, 1.0)
        write_epochs(cell.epochs, [*epochs, epoch])
        return False

    def _score(self, variant: int, fold: int, epoch: int) -> float:
        if variant not in self._rates:
            self._rates[variant] = self.study.row(variant).parameters.get("train.lr", 1e-4)
        lr = self._rates[variant]
        return 0.9 + 0.1 * np.log10(lr) + 0.01 * fold + 0.02 * epoch


def drive(
    schedule: Schedule, trainer: Trainer, slots: int = 1, random: np.random.Generator | None = None
) -> list[Cell]:
    """Run what there is in `slots` slots, as Ray would; returns the cells in their order."""
    live: list[Cell] = []
    order: list[Cell] = []
    while True:
        while len(live) < slots and (cell := schedule.next_cell(set(live))) is not None:
            assert cell not in live
            live.append(cell)
            order.append(cell)
        if not live:
            return order
        cell = live[int(random.integers(len(live)))] if random else live[0]
        ended = trainer.step(*cell)
        goes_on = schedule.observe(*cell)
        if ended or not goes_on:
            live.remove(cell)
        live = [cell for cell in live if schedule.is_open(cell[0])]


def outcome(study: Study) -> list[Any]:
    """Everything that a study's rows come to."""
    return [
        (row.row, row.status, row.reason, row.score("best_full"), [c.epochs for c in row.cells])
        for row in Board.read(study)
    ]


def told(study: Study, storage: InMemoryStorage) -> list[Any]:
    """What Optuna holds of the rows."""
    trials = optuna.load_study(study_name=study.folder.name, storage=storage).trials
    return [(t.state, t.values, t.params, t.user_attrs, t.intermediate_values) for t in trials]


def make(folder: Path, search: Search = SEARCH) -> Study:
    return make_study(folder / "results", search=search)


def test_rows_are_completed_in_order_and_all_are(tmp_path: Path, storage: InMemoryStorage):
    study, ended = make(tmp_path), []
    order = drive(start(study, lambda row: ended.append(row.variant)), Trainer(study))
    pruned = [(HOPELESS, fold) for fold in (1, 2)]
    assert order == [
        (v, f) for v in range(5) for f in (1, 2, 3) if v != HOPELESS or (v, f) in pruned
    ]
    assert ended == [0, 1, 2, 3, 4]
    rows = list(Board.read(study))
    assert [row.status for row in rows] == ["done", "done", "done", "pruned", "done"]
    assert [row.row.origin for row in rows] == ["base", "given", "tpe", "tpe", "tpe"]
    assert rows[1].parameters == {"train.lr": 2e-3}
    states = [TrialState.COMPLETE] * 3 + [TrialState.PRUNED, TrialState.COMPLETE]
    assert [trial[0] for trial in told(study, storage)] == states


def test_a_study_without_a_space_needs_no_optuna(tmp_path: Path):
    study = make(tmp_path, Search(variants=3, grid={"train.lr": [1e-3, 1e-2]}))
    order = drive(start(study), Trainer(study))
    assert order == [(v, f) for v in range(3) for f in (1, 2, 3)]
    assert not list(study.folder.glob("optuna*"))


@pytest.mark.parametrize("slots", [2, 4, 9])
def test_no_row_is_begun_while_another_has_a_cell_left(
    tmp_path: Path, storage: InMemoryStorage, slots: int
):
    study = make(tmp_path)
    schedule, random = start(study), np.random.default_rng(slots)
    order = drive(schedule, Trainer(study), slots, random)
    assert order == sorted(order) and len(set(order)) == len(order)
    assert {row.status for row in Board.read(study)} == {"done", "pruned"}
    assert all(trial[0].is_finished() for trial in told(study, storage))


def test_a_failed_fold_closes_its_row_and_a_rerun_tries_it_again(
    tmp_path: Path, storage: InMemoryStorage
):
    study, ended = make(tmp_path), []
    trainer = Trainer(study)
    trainer.broken = {(1, 1)}
    order = drive(start(study, lambda row: ended.append((row.variant, row.status))), trainer)
    assert [cell for cell in order if cell[0] == 1] == [(1, 1)], "its siblings were handed out"
    assert ended[1] == (1, "failed") and len(ended) == 5
    assert Board.read(study).rows[1].reason == "fold 1: loss is nan"

    again = drive(start(study), trainer)
    assert again == [(1, 1)], "it fails again, and nothing else is run"
    trainer.broken = set()
    assert drive(start(study), trainer) == [(1, 1), (1, 2), (1, 3)]
    assert len(set(trainer.trained)) == len(trainer.trained), "an epoch was trained twice"
    trials = [t for t in told(study, storage) if t[3]["variant"] == "v001"]
    states = [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert [trial[0] for trial in trials] == states
    assert "loss is nan" in trials[0][3]["reason"] and "reason" not in trials[2][3]


def test_a_crashed_cell_is_written_down_with_its_reason(tmp_path: Path, storage: InMemoryStorage):
    study = make(tmp_path)
    schedule = start(study)
    assert schedule.next_cell(set()) == (0, 1)
    Trainer(study).step(0, 1)
    schedule.fail(0, 1, "crashed 3 times")
    assert not schedule.is_open(0) and not schedule.observe(0, 1)
    assert Board.read(study).rows[0].reason == "fold 1: crashed 3 times"
    assert schedule.next_cell(set()) == (1, 1)


def test_a_crash_after_the_end_does_not_undo_a_cell(tmp_path: Path, storage: InMemoryStorage):
    study = make(tmp_path)
    schedule, trainer = start(study), Trainer(study)
    while not trainer.step(0, 1):
        pass
    schedule.fail(0, 1, "crashed at its exit")
    assert schedule.is_open(0) and schedule.next_cell(set()) == (0, 2)


def test_more_variants_extend_a_study(tmp_path: Path, storage: InMemoryStorage):
    study = make(tmp_path)
    drive(start(study), Trainer(study))
    before, record = outcome(study), study.read()
    assert drive(start(study), Trainer(study)) == []
    rows = [*SEARCH.rows, {"train.lr": 5e-3}]
    larger = record.search.model_copy(update={"variants": 8, "rows": rows})
    study.write(record.model_copy(update={"search": larger}))
    order = drive(start(study), Trainer(study))
    assert order == [(v, f) for v in (5, 6, 7) for f in (1, 2, 3)]
    assert outcome(study)[:5] == before
    origins = [row.row.origin for row in Board.read(study)]
    assert origins[5:] == ["given", "tpe", "tpe"], "what was appended comes first"
    assert len(told(study, storage)) == 8


def test_a_pruned_row_stays_so_with_its_reason(tmp_path: Path, storage: InMemoryStorage):
    study = make(tmp_path)
    drive(start(study), Trainer(study))
    row = Board.read(study).rows[HOPELESS]
    assert (row.status, row.reason) == ("pruned", "behind v000")
    assert [len(cell.epochs) for cell in row.cells] == [EPOCHS, 2, 0]
    assert told(study, storage)[HOPELESS][3]["reason"] == "behind v000"
    record = study.read()
    off = record.search.model_copy(update={"prune": False})
    study.write(record.model_copy(update={"search": off}))
    assert drive(start(study), Trainer(study)) == [], "it is begun again without pruning"


def test_curves_are_evidence_again_after_a_restart(
    tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
):
    study, seen = make(tmp_path), []
    trainer = Trainer(study)
    trainer.broken = {(1, 2)}
    drive(start(study), trainer)

    def judge(candidate: RowCurves, others: list[RowCurves], folds: int) -> Verdict:
        seen.append({r.variant: {k: len(v) for k, v in r.curves.items()} for r in others})
        return Verdict(False, "kept")

    monkeypatch.setattr("study.schedule.judge", judge)
    start(study)
    whole = dict.fromkeys((1, 2, 3), EPOCHS)
    assert seen == [{0: whole, 2: whole, HOPELESS: {1: EPOCHS, 2: 2}, 4: whole}]


class Bomb:
    """Kills at the n-th write, before it or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, storage: InMemoryStorage):
        self.left = self.done = 0
        self.after = False
        for name in ("create_new_study", "create_new_trial", "delete_study",
                     "set_study_user_attr", "set_study_system_attr", "set_trial_user_attr",
                     "set_trial_intermediate_value", "set_trial_state_values"):  # fmt: skip
            monkeypatch.setattr(storage, name, self._around(getattr(storage, name)))
        monkeypatch.setattr(Path, "replace", self._around(Path.replace))
        monkeypatch.setattr(Path, "unlink", self._around(Path.unlink))

    def set(self, at: int, after: bool) -> None:
        """At the at-th write from now on (from 1); 0 never."""
        self.left, self.after, self.done = at, after, 0

    def _around(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def killed(*arguments: Any, **others: Any) -> Any:
            self.left -= 1
            self.done += 1
            if self.left == 0 and not self.after:
                raise Killed
            result = write(*arguments, **others)
            if self.left == 0:
                raise Killed
            return result

        return killed


@pytest.fixture
def bomb(monkeypatch: pytest.MonkeyPatch, storage: InMemoryStorage) -> Bomb:
    return Bomb(monkeypatch, storage)


@pytest.fixture
def calm(tmp_path: Path, storage: InMemoryStorage, bomb: Bomb) -> Iterator[tuple[list[Any], ...]]:
    """What an undisturbed study comes to, what Optuna was told, and how many writes it took."""
    study = make(tmp_path / "calm")
    bomb.set(0, after=False)
    drive(start(study), Trainer(study))
    result = (outcome(study), told(study, storage), [bomb.done])
    storage.delete_study(storage.get_study_id_from_name(study.folder.name))
    yield result


def resumed(study: Study, trainer: Trainer, slots: int = 1, seed: int | None = None) -> bool:
    """Run until the end or the bomb. Returns whether it came to the end."""
    random = None if seed is None else np.random.default_rng(seed)
    try:
        drive(start(study), trainer, slots, random)
    except Killed:
        return False
    return True


@pytest.mark.parametrize("part", range(4))
def test_killed_at_any_write_a_study_comes_to_the_same(
    tmp_path: Path, storage: InMemoryStorage, bomb: Bomb, calm: tuple[list[Any], ...], part: int
):
    rows, optunas, (writes,) = calm
    assert writes > 100
    for at in range(1 + part, writes + 1, 4 * 5):
        study = make(tmp_path / str(at))
        trainer = Trainer(study)
        bomb.set(at, after=bool(at % 2))
        assert not resumed(study, trainer)
        bomb.set(0, after=False)
        assert resumed(study, trainer)
        assert outcome(study) == rows, f"killed at write {at}"
        assert told(study, storage) == optunas, f"killed at write {at}"
        storage.delete_study(storage.get_study_id_from_name(study.folder.name))


@pytest.mark.parametrize("step", [7, 11, 12, 13])
def test_killed_again_and_again_a_study_comes_to_the_same(
    tmp_path: Path, storage: InMemoryStorage, bomb: Bomb, calm: tuple[list[Any], ...], step: int
):
    study, kills = make(tmp_path / "hunted"), 0
    trainer = Trainer(study)
    bomb.set(step, after=False)
    while not resumed(study, trainer):
        kills += 1
        bomb.set(step, after=bool(kills % 2))
    assert kills > 5
    assert (outcome(study), told(study, storage)) == calm[:2]


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_in_several_slots_nothing_is_lost_or_done_twice(
    tmp_path: Path, storage: InMemoryStorage, bomb: Bomb, seed: int
):
    random, study = np.random.default_rng(seed), make(tmp_path)
    trainer, slots, kills = Trainer(study), 2 + seed % 3, 0
    bomb.set(int(random.integers(5, 60)), after=False)
    while not resumed(study, trainer, slots, seed + kills):
        kills += 1
        bomb.set(int(random.integers(5, 60)), after=bool(random.integers(2)))
    assert kills >= 1
    rows, trials = list(Board.read(study)), told(study, storage)
    assert len(rows) == SEARCH.variants
    assert {row.status for row in rows} <= {"done", "pruned"}
    assert sorted(t[3]["variant"] for t in trials) == [f"v{row.variant:03d}" for row in rows]
    by_name = {trial[3]["variant"]: trial for trial in trials}
    for row in rows:
        state, values, *_ = by_name[f"v{row.variant:03d}"]
        assert state == (TrialState.COMPLETE if row.status == "done" else TrialState.PRUNED)
        assert values == ([row.score("best_full")] if row.status == "done" else None)
