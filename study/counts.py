"""Counts of a row's out-of-fold frames, read from its cells once for all that is made of them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int64

from cityseg.cell import Cell, Choice, PackedConfusion, Resolution, read_packed
from cityseg.errors import InputError
from cityseg.labels import NUM_CLASSES
from study.space import Objective
from study.tally import Tally, tally_of

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


def read_fold(cell: Cell, frames: Sequence[str]) -> PackedConfusion:
    """Counts of a finished cell.

    Args:
        cell: of one fold.
        frames: names of the fold's frames, as folds.json has them.

    Raises:
        InputError: the file is damaged, or of other frames: of another fold, or another study.
    """
    counts = read_packed(cell.confusion)
    if sorted(counts.names) != sorted(frames):
        others = len({*counts.names} - {*frames})
        raise InputError(
            f"{cell.confusion} is of other frames than its fold in folds.json",
            got=f"{len(counts.names)} frames, {others} of them of other folds",
            expected=f"the {len(frames)} of that fold",
            remedy="restore it, or remove it and start the study again: the fold is then trained"
            " anew",
        )
    return counts


def read_counts(
    cells: Sequence[Cell],
    folds: Sequence[Sequence[str]],
    tallied: Collection[Objective] = tuple(OBJECTIVES),
) -> OutOfFold | None:
    """Counts of a row; None unless all its cells are done.

    Args:
        cells: of every fold.
        folds: names of each fold's frames, as folds.json has them.
        tallied: scores whose counts are wanted frame by frame, too.

    Raises:
        InputError: one of the cells' files is damaged, or of other frames.
    """
    if any(cell.status() != "done" for cell in cells):
        return None
    read = (read_fold(cell, frames) for cell, frames in zip(cells, folds, strict=True))
    return out_of_fold(read, tallied)


def out_of_fold(
    folds: Iterable[PackedConfusion], tallied: Collection[Objective] = tuple(OBJECTIVES)
) -> OutOfFold:
    """Take together what is wanted of the folds of a row, one after the other."""
    names, sums, frames = [], [], []
    for fold in folds:
        names.append(fold.names)
        sums.append(
            {objective: fold_confusion(fold, *OBJECTIVES[objective]) for objective in OBJECTIVES}
        )
        frames.append({o: fold_hits_and_unions(fold, *OBJECTIVES[o]) for o in tallied})
    return OutOfFold(
        {
            objective: tally_of(
                [(name, fold[objective]) for name, fold in zip(names, frames, strict=True)]
            )
            for objective in tallied
        },
        {objective: np.stack([fold[objective] for fold in sums]) for objective in OBJECTIVES},
    )


def fold_confusion(
    fold: PackedConfusion, choice: Choice, resolution: Resolution
) -> Int64[np.ndarray, "19 19"]:
    """Confusion matrix of all frames together; exact below 2^53 pixels."""
    at, counts = fold.table(choice, resolution)
    sums = np.bincount(at % NUM_CLASSES**2, counts, NUM_CLASSES**2)
    return sums.astype(np.int64).reshape(NUM_CLASSES, NUM_CLASSES)


def fold_hits_and_unions(
    fold: PackedConfusion, choice: Choice, resolution: Resolution
) -> Int64[np.ndarray, "n 2 19"]:
    """TP and TP + FP + FN of each frame and class, as `study.tally` has them; exact below 2^53.

    Of a frame's 361 counts two thirds are 0: never made whole, they take a third of the time.
    """
    at, counts = fold.table(choice, resolution)
    frame_and_label, prediction = np.divmod(at, NUM_CLASSES)
    frame_and_prediction = at // NUM_CLASSES**2 * NUM_CLASSES + prediction
    right = frame_and_label == frame_and_prediction
    size = len(fold.names) * NUM_CLASSES
    labelled = np.bincount(frame_and_label, counts, size)
    predicted = np.bincount(frame_and_prediction, counts, size)
    hits = np.bincount(frame_and_label[right], counts[right], size)
    both = [part.reshape(-1, NUM_CLASSES) for part in (hits, labelled + predicted - hits)]
    return np.stack(both, 1).astype(np.int64)
