"""Pixels of every class in each training frame: for class weights and class-uniform crops.

Counted from the labels of the fold's own training part, and of nothing else.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from cityseg.cache import Reader
from cityseg.config import Config
from cityseg.data import Frame
from cityseg.labels import NUM_CLASSES

Census = Int64[np.ndarray, "n 19"]
"""Pixels by frame and class, at the frames' own size; those without a label are not in it."""


def census_of(train: Sequence[Frame], config: Config, read: Reader) -> Census | None:
    """The census of a training part, if the configuration has a use for one.

    A few milliseconds a frame from the cache; counted anew at every start, always the same.

    Raises:
        InputError: a frame that cannot be read.
    """
    weighted = config.loss.class_weights != "none"
    if not weighted and not config.data.augment.crop.class_uniform:
        return None
    return np.stack([count(read(frame)[1]) for frame in train])


def count(target: np.ndarray) -> Int64[np.ndarray, " 19"]:
    """Pixels of each class in one frame's train ids."""
    return np.bincount(target.ravel(), minlength=256)[:NUM_CLASSES].astype(np.int64)
