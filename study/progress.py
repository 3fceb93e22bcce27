"""How far a study is, read from its table on disk: cells, rows, and the whole board of them."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64

from cityseg.cell import Cell, Epoch, Status, read_epochs
from cityseg.config import Config
from study.space import Objective, Parameters
from study.store import Row, Study, StudyRecord

RowStatus = Literal["pending", "unfinished", "failed", "pruned", "done"]


@dataclass(frozen=True)
class CellProgress:
    """How far one cell is."""

    fold: int
    status: Status
    total: int
    """Epochs in all."""
    epochs: list[Epoch]
    reason: str = ""
    """Why it failed."""

    @property
    def last(self) -> Epoch | None:
        """The last finished epoch."""
        return self.epochs[-1] if self.epochs else None

    @property
    def best_low(self) -> float | None:
        """Best low-resolution mIoU so far."""
        return max((epoch.miou_low for epoch in self.epochs), default=None)

    @property
    def spent_s(self) -> float:
        """Seconds of training and scoring so far."""
        return sum(epoch.train_s + epoch.val_s for epoch in self.epochs)

    @property
    def remaining_s(self) -> float | None:
        """Seconds of training left by the mean of the epochs so far; None before the first."""
        if not self.epochs:
            return None
        return self.spent_s / len(self.epochs) * (self.total - len(self.epochs))

    def curve(self, objective: Objective) -> Float64[np.ndarray, " epochs"]:
        """The score after each epoch, as if the training had ended there; 0-1, NaN if undefined."""
        which, resolution = objective.split("_")
        scores = np.array([getattr(e, f"miou_{resolution}") for e in self.epochs], np.float64)
        if which == "last" or not self.epochs:
            return scores
        low = np.nan_to_num([epoch.miou_low for epoch in self.epochs], nan=-1.0)
        better = np.concatenate([[True], low[1:] > np.maximum.accumulate(low)[:-1]])
        best = np.maximum.accumulate(np.where(better, np.arange(len(low)), 0))
        return scores[best]

    def score(self, objective: Objective) -> float:
        """The score as it stands; NaN before the first epoch."""
        curve = self.curve(objective)
        return float(curve[-1]) if len(curve) else math.nan


@dataclass(frozen=True)
class RowProgress:
    """How far one row is: the same configuration on every fold."""

    row: Row
    cells: tuple[CellProgress, ...]
    pruned: str = ""
    """Why it was stopped early; empty if it was not."""

    @property
    def variant(self) -> int:
        """Number of the row."""
        return self.row.variant

    @property
    def parameters(self) -> Parameters:
        """What the row changes."""
        return self.row.parameters

    @property
    def status(self) -> RowStatus:
        """pruned and failed rows are closed; a row is done when all its cells are."""
        statuses = {cell.status for cell in self.cells}
        if self.pruned:
            return "pruned"
        if "failed" in statuses:
            return "failed"
        if statuses == {"done"}:
            return "done"
        return "pending" if statuses == {"pending"} else "unfinished"

    @property
    def is_open(self) -> bool:
        """Whether any of its cells is still to be run."""
        return self.status in ("pending", "unfinished")

    @property
    def reason(self) -> str:
        """Why it was pruned or failed; empty otherwise."""
        failed = [f"fold {cell.fold}: {cell.reason}" for cell in self.cells if cell.reason]
        return self.pruned or "; ".join(failed)

    def cell(self, fold: int) -> CellProgress:
        """The cell of a fold (from 1)."""
        return self.cells[fold - 1]

    def score(self, objective: Objective) -> float:
        """Mean of the folds' scores, 0-1; NaN unless the row is done."""
        return self._scores[objective] if self.status == "done" else math.nan

    @functools.cached_property
    def _scores(self) -> dict[Objective, float]:
        return {
            objective: float(np.mean([cell.score(objective) for cell in self.cells]))
            for objective in get_args(Objective)
        }


@dataclass
class Board:
    """All rows of a study, kept up to date cell by cell while it runs."""

    study: Study
    record: StudyRecord
    rows: dict[int, RowProgress] = field(default_factory=dict)
    """By variant, in order."""

    @staticmethod
    def read(study: Study) -> "Board":
        """The table as it stands on disk.

        Raises:
            InputError: one of its files is missing or damaged.
        """
        board = Board(study, study.read())
        for row in study.rows():
            board.add(row)
        return board

    @property
    def folds(self) -> range:
        """Numbers of the folds, from 1."""
        return range(1, self.record.config.folds.count + 1)

    @property
    def objective(self) -> Objective:
        """What the study compares."""
        return self.record.search.objective

    def __iter__(self) -> Iterator[RowProgress]:
        return iter(self.rows.values())

    def add(self, row: Row) -> RowProgress:
        """Take up a row, as it stands on disk."""
        total = _epochs(row, self.record.config)
        cells = tuple(
            read_cell(self.study.cell(row.variant, fold), fold, total) for fold in self.folds
        )
        pruned = self.study.pruned_file(row.variant)
        reason = pruned.read_text(encoding="utf-8").strip() if pruned.is_file() else ""
        self.rows[row.variant] = RowProgress(row, cells, reason)
        return self.rows[row.variant]

    def update(self, variant: int, fold: int) -> RowProgress:
        """Read one cell again."""
        row = self.rows[variant]
        cell = read_cell(self.study.cell(variant, fold), fold, row.cell(fold).total)
        cells = tuple(cell if old.fold == fold else old for old in row.cells)
        self.rows[variant] = replace(row, cells=cells)
        return self.rows[variant]

    def refresh(self) -> list[tuple[int, int, int]]:
        """Read again what may have changed; returns (variant, fold, epoch) of the new epochs."""
        new: list[tuple[int, int, int]] = []
        for row in self.study.rows():
            old = self.rows.get(row.variant)
            if old is not None and old.status in ("done", "pruned"):  # a failed one may go on
                continue
            known = [len(cell.epochs) for cell in old.cells] if old else [0] * len(self.folds)
            for done, cell in zip(known, self.add(row).cells, strict=True):
                new += [(row.variant, cell.fold, epoch.epoch) for epoch in cell.epochs[done:]]
        return new

    def forgive(self, variant: int) -> None:
        """Open a failed row again: its failed cells are to be tried once more."""
        row = self.rows[variant]
        cells = tuple(
            replace(cell, status="unfinished" if cell.epochs else "pending", reason="")
            if cell.status == "failed" else cell
            for cell in row.cells
        )  # fmt: skip
        self.rows[variant] = replace(row, cells=cells)

    def mark_pruned(self, variant: int, reason: str) -> None:
        """A row was stopped early."""
        self.rows[variant] = replace(self.rows[variant], pruned=reason)


def read_cell(cell: Cell, fold: int, total: int) -> CellProgress:
    """A cell as it stands on disk."""
    status, reason = cell.status(), ""
    if status == "failed":
        try:
            reason = cell.failure.read_text(encoding="utf-8").strip()
        except FileNotFoundError:  # the cell is tried again since
            status = cell.status()
    return CellProgress(fold, status, total, read_epochs(cell.epochs), reason)


def _epochs(row: Row, base: Config) -> int:
    return row.parameters.get("train.epochs", base.train.epochs)
