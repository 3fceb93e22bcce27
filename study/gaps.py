"""What lies between numbers that one would like to be one: chosen and last epoch, low and full
resolution, loss on the training and on the validation frames. Each is paired fold by fold."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from study.analysis import CellScores, FoldTable
from study.counts import OBJECTIVES, Choice
from study.space import Objective
from study.statistics import CorrectedMean, corrected_mean

SCORE_NAMES: Final[dict[Objective, str]] = {
    "best_low": "best epoch, low-res",
    "best_full": "best epoch, full-res",
    "last_low": "last epoch, low-res",
    "last_full": "last epoch, full-res",
}
LOSS_NAMES: Final[dict[Choice, tuple[str, str]]] = {
    "best": ("best epoch, validation loss", "training loss"),
    "last": ("last epoch, validation loss", "training loss"),
}


@dataclass(frozen=True, eq=False)
class Gap:
    """One number minus another, of the same folds; both in mIoU (0-1) or in nats a pixel."""

    first: str
    """What is meant, in words."""
    second: str
    first_mean: float
    """Over the folds."""
    second_mean: float
    difference: CorrectedMean
    """First minus second, with its interval for other trainings."""


@dataclass(frozen=True, eq=False)
class GapTable:
    """All gaps of a row whose folds are all done."""

    folds: FoldTable
    epoch_choice: tuple[Gap, ...]
    """Best minus last epoch, low-res and full-res: what picking the epoch on the scored fold adds.
    How much of it is flattery, how much a better network, cannot be had from two epochs' counts."""
    resolution: tuple[Gap, ...]
    """Low-res minus full-res, of the best and of the last epoch."""
    generalisation: tuple[Gap, ...]
    """Validation minus training loss, of the best and of the last epoch. The training loss is a
    mean over augmented samples while the network still learns from them, so the gap may be below 0
    without any fault."""

    @property
    def all(self) -> tuple[Gap, ...]:
        """In the order in which they are told."""
        return self.epoch_choice + self.resolution + self.generalisation


def gap_table(folds: FoldTable, test_train_ratio: float) -> GapTable | None:
    """Gaps of a row; None unless all its folds are done.

    Args:
        folds: the row's scores.
        test_train_ratio: frames scored over frames trained on, as the layout of the row has it.

    Raises:
        InputError: a table of epochs is damaged.
    """
    if folds.finished < len(folds.cells):
        return None

    def between(first: Objective, second: Objective) -> Gap:
        one, other = (folds.miou(*OBJECTIVES[name]) for name in (first, second))
        return _gap(SCORE_NAMES[first], SCORE_NAMES[second], one, other, test_train_ratio)

    def of_losses(choice: Choice) -> Gap:
        val, train = _losses(folds, choice)
        return _gap(*LOSS_NAMES[choice], val, train, test_train_ratio)

    return GapTable(
        folds,
        epoch_choice=(between("best_low", "last_low"), between("best_full", "last_full")),
        resolution=(between("best_low", "best_full"), between("last_low", "last_full")),
        generalisation=(of_losses("best"), of_losses("last")),
    )


def _gap(
    first: str,
    second: str,
    one: Float64[np.ndarray, " k"],
    other: Float64[np.ndarray, " k"],
    test_train_ratio: float,
) -> Gap:
    difference = corrected_mean(one - other, test_train_ratio)
    return Gap(first, second, float(one.mean()), float(other.mean()), difference)


def _losses(folds: FoldTable, choice: Choice) -> Float64[np.ndarray, "2 k"]:
    """Validation and training loss of the epoch whose scores are in the table, of each fold."""
    return np.array([_of_epoch(folds, cell, choice) for cell in folds.cells]).T


def _of_epoch(folds: FoldTable, cell: CellScores, choice: Choice) -> tuple[float, float]:
    """NaN if the table of epochs lacks the epoch."""
    scores = cell.best if choice == "best" else cell.last
    for epoch in folds.variant.cells[cell.fold - 1].progress.epochs:
        if scores and epoch.epoch == scores.epoch:
            return epoch.val_loss, epoch.train_loss
    return np.nan, np.nan
