"""Rows of made-up out-of-fold counts."""

import numpy as np

from study.tally import Tally, tally


def names_of(cities: list[str]) -> list[str]:
    """A frame name for each city in the list."""
    return [f"{city}_000000_{i:06d}" for i, city in enumerate(cities)]


def right_of(hits: list[int], px: int = 10) -> np.ndarray:
    """int64[n, 2, 2]: of `px` pixels of class 0 a frame, so many are right, the rest class 1.

    Class 1 is in no label, so its IoU is 0 where any pixel is wrong and none where all are right.
    """
    return np.array([[[hit, px - hit], [0, 0]] for hit in hits], np.int64)


def half_ignored(hits: list[int], px: int = 10) -> np.ndarray:
    """int64[n, 1, 1] would lose the wrong pixels, so: int64[n, 2, 2] with a union of `px` a frame.

    Both classes have the same hits and unions, so that the mIoU is the mean of hits / px: linear.
    """
    return np.array(
        [[[2 * hit, px - hit], [px - hit, 2 * hit]] for hit in hits], np.int64
    )


def row(folds: list[list[str]], confusions: list[np.ndarray]) -> Tally:
    """Out of names and confusions of each fold."""
    return tally(list(zip(folds, confusions, strict=True)))


def random_confusions(
    rng: np.random.Generator, frames: int, classes: int = 4, right: float = 0.7
) -> np.ndarray:
    """int64[n, c, c] of which about this share is right."""
    noise = rng.integers(0, 20, (frames, classes, classes))
    return noise + (np.eye(classes) * 20 * classes * right).astype(np.int64)
