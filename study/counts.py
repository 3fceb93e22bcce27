"""Counts of a row's out-of-fold frames, read from its cells once for all that is made of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Int64

from cityseg.cell import Cell, Confusion, read_confusion
from study.space import Objective
from study.tally import Tally, tally

Choice = Literal["best", "last"]
"""best: by low-res mIoU on the very fold that is scored (the paper's way, it flatters); last: the
last epoch, chosen by nothing."""
Resolution = Literal["low", "full"]
"""low: the network's input size, against resized labels; full: each frame's own size."""

OBJECTIVES: Final[dict[Objective, tuple[Choice, Resolution]]] = {
    "best_low": ("best", "low"),
    "best_full": ("best", "full"),
    "last_low": ("last", "low"),
    "last_full": ("last", "full"),
}
"""Choice and resolution of each score, by the names that a study compares its rows by."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The counts of a row whose folds are all done."""

    tallies: dict[Objective, Tally]
    """Of each frame, by the scores asked for."""
    confusion: dict[Objective, Int64[np.ndarray, "k 19 19"]]
    """Summed over the frames of each fold; rows labels, columns predictions."""


def read_counts(
    cells: Sequence[Cell], tallied: Collection[Objective] = tuple(OBJECTIVES)
) -> OutOfFold | None:
    """Counts of a row; None unless all its cells are done.

    Args:
        cells: of every fold.
        tallied: scores whose counts are wanted frame by frame, too.

    Raises:
        InputError: one of the cells' files is damaged.
    """
    if any(cell.status() != "done" for cell in cells):
        return None
    folds = [read_confusion(cell.confusion) for cell in cells]
    return OutOfFold(
        {name: tally([(fold.names, counts_of(fold, name)) for fold in folds]) for name in tallied},
        {name: np.stack([counts_of(fold, name).sum(0) for fold in folds]) for name in OBJECTIVES},
    )


def counts_of(confusion: Confusion, objective: Objective) -> Int64[np.ndarray, "n 19 19"]:
    """Of each frame, those behind one of the scores."""
    choice, resolution = OBJECTIVES[objective]
    return getattr(getattr(confusion, choice), resolution)
