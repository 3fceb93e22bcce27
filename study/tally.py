"""What a mean IoU needs of every out-of-fold frame: hits and unions of the classes, as counts.

A study of k folds predicts each frame once, by the network that was not trained on it. IoU is
TP / (TP + FP + FN), and the sums of TP and of TP + FP + FN over frames are all that it takes, so
a frame's 19 x 19 confusion matrix comes down to 2 x 19 integers, exactly. They are kept in 32 bits
where they fit, and rows of the same frames share one layout: a thousand rows of Cityscapes' 2,975
frames take half a gigabyte.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer, Shaped
from scipy import sparse

from cityseg.data import city_of


@dataclass(frozen=True, eq=False)
class Layout:
    """Which frames are scored in which fold, each once."""

    names: tuple[str, ...]
    """Sorted, so that the order in which frames were given changes nothing."""
    fold: Int64[np.ndarray, " n"]
    """From 0."""
    city: Int64[np.ndarray, " n"]
    """The frame's city, as a number from 0 in the order of the cities' names."""
    folds: int

    @property
    def sizes(self) -> Int64[np.ndarray, " k"]:
        """Frames of each fold."""
        return np.bincount(self.fold, minlength=self.folds)

    @property
    def cities(self) -> int:
        """How many there are."""
        return len(np.unique(self.city))

    @property
    def test_train_ratio(self) -> float:
        """Frames scored over frames trained on, mean of the folds; 1 / (k - 1) for equal folds.

        NaN for fewer than two folds.
        """
        if self.folds < 2:
            return np.nan
        return float((self.sizes / (len(self.names) - self.sizes)).mean())

    def agrees(self, other: "Layout") -> bool:
        """Whether the same frames stand in the same folds, so that scores may be paired."""
        return self.names == other.names and np.array_equal(self.fold, other.fold)


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of one row's out-of-fold predictions."""

    layout: Layout
    counts: Integer[np.ndarray, "n 2 c"]
    """Pixels of each frame and class: hits (TP), then the union (TP + FP + FN); int64, or uint32
    where all fit."""

    @property
    def totals(self) -> Int64[np.ndarray, "k 2 c"]:
        """Sums over the frames of each fold."""
        return group_sums(self.counts, self.layout.fold, self.layout.folds)


def tally(folds: Sequence[tuple[Sequence[str], Int64[np.ndarray, "n c c"]]]) -> Tally:
    """Take together what the folds' networks said: for each fold, frame names and confusions.

    Confusion matrices have labels as rows and predictions as columns.

    Raises:
        ValueError: a frame stands in two folds, or names and matrices differ in number.
    """
    return tally_of([(names, hits_and_unions(confusion)) for names, confusion in folds])


def tally_of(folds: Sequence[tuple[Sequence[str], Int64[np.ndarray, "n 2 c"]]]) -> Tally:
    """The same from each frame's hits and unions.

    Raises:
        ValueError: as `tally`.
    """
    layout, order = _layout(tuple(tuple(names) for names, _ in folds))
    counts = np.concatenate([_narrow(there) for _, there in folds])
    if len(counts) != len(order):
        raise ValueError(f"{len(order)} names, {len(counts)} frames")
    return Tally(layout, counts[order])


@functools.lru_cache(maxsize=4)
def _layout(folds: tuple[tuple[str, ...], ...]) -> tuple[Layout, Int64[np.ndarray, " n"]]:
    """The layout, and where each of its frames stands in the folds one after another."""
    names = np.array([name for fold_names in folds for name in fold_names])
    if len(set(names)) != len(names):
        raise ValueError(f"{len(names)} names, {len(set(names))} different")
    fold = np.repeat(np.arange(len(folds)), [len(fold_names) for fold_names in folds])
    order = np.argsort(names)
    ordered = tuple(str(name) for name in names[order])
    _, city = np.unique([city_of(name) or name for name in ordered], return_inverse=True)
    return Layout(ordered, fold[order], city.astype(np.int64), len(folds)), order


def _narrow(counts: Int64[np.ndarray, "n 2 c"]) -> Integer[np.ndarray, "n 2 c"]:
    """In half the memory where no count is lost; numpy's sums of uint32 are of 64 bits."""
    return counts.astype(np.uint32) if counts.max(initial=0) < 2**32 else counts


def group_sums(
    counts: Integer[np.ndarray, "n 2 c"], group: Int64[np.ndarray, " n"], groups: int
) -> Int64[np.ndarray, "g 2 c"]:
    """Exact sums over the frames of each group, 0 for one without any.

    By a sparse product: many times as fast as `np.add.at`, where a thousand rows are compared.
    """
    sums = group_members(group, groups) @ counts.reshape(len(group), -1)
    return sums.reshape(groups, *counts.shape[1:])


def group_members(group: Int64[np.ndarray, " n"], groups: int) -> sparse.csr_array:
    """int64[g, n]: 1 where a frame is of a group, else 0."""
    frames = len(group)
    places = (group, np.arange(frames))
    return sparse.csr_array((np.ones(frames, np.int64), places), shape=(groups, frames))


def hits_and_unions(confusion: Int64[np.ndarray, "n c c"]) -> Int64[np.ndarray, "n 2 c"]:
    """TP and TP + FP + FN of each class, in pixels."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(-1) + confusion.sum(-2) - hits], -2)


def class_iou(totals: Shaped[np.ndarray, "*batch 2 c"]) -> Float64[np.ndarray, "*batch c"]:
    """IoU of each class, 0-1; NaN where its union is empty (the official rule)."""
    hits, unions = totals[..., 0, :], totals[..., 1, :]
    with np.errstate(invalid="ignore"):
        return hits / np.where(unions == 0, np.nan, unions)


def mean_over(values: Float64[np.ndarray, "*batch n"]) -> Float64[np.ndarray, "*batch"]:
    """Mean over those that are not NaN; NaN if none is."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    return np.where(there, values, 0).sum(-1) / np.where(count == 0, np.nan, count)


def miou(totals: Shaped[np.ndarray, "*batch 2 c"]) -> Float64[np.ndarray, "*batch"]:
    """Mean IoU over the classes that have one, 0-1; NaN if none has."""
    return mean_over(class_iou(totals))


def mean_of_folds(totals: Shaped[np.ndarray, "*batch k 2 c"]) -> Float64[np.ndarray, "*batch"]:
    """Mean of the folds' mIoU, 0-1: the paper's number. NaN if a fold has none."""
    return miou(totals).mean(-1)


def pooled_miou(totals: Shaped[np.ndarray, "*batch k 2 c"]) -> Float64[np.ndarray, "*batch"]:
    """mIoU of the counts summed over the folds, 0-1: every frame predicted once, scored as one set.

    It differs from the mean of the folds because a ratio of sums is no mean of ratios: a fold
    counts by its pixels of each class, and a class that a fold lacks is no gap in the sum.
    """
    return miou(totals.sum(-3))
