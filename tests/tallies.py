"""Rows of made-up out-of-fold counts."""

from collections.abc import Sequence

import numpy as np

from study.tally import Tally, tally


def names_of(cities: Sequence[str]) -> list[str]:
    """A frame name for each city in the list."""
    return [f"{city}_000000_{i:06d}" for i, city in enumerate(cities)]


def linear(wrong: Sequence[int] | np.ndarray, union: int = 20) -> np.ndarray:
    """Confusions int64[n, 2, 2] in which both classes of every frame have this same union.

    Then the mIoU of any frames is the plain mean of 1 - 2 wrong / union over them.
    """
    return np.array([[[union - 2 * w, w], [w, union - 2 * w]] for w in wrong], np.int64)


def row(folds: Sequence[Sequence[str]], confusions: Sequence[np.ndarray]) -> Tally:
    """Out of names and confusions of each fold."""
    return tally(list(zip(folds, confusions, strict=True)))


def noisy(rng: np.random.Generator, frames: int, classes: int = 4) -> np.ndarray:
    """Confusions int64[n, c, c] of which most is right, none alike."""
    wrong = rng.integers(0, 20, (frames, classes, classes))
    return wrong + np.eye(classes, dtype=np.int64) * rng.integers(20, 200, (frames, 1, 1))
