"""Telling train ids from label ids by how often each value occurs.

The two ways of numbering overlap: 0-18 are all label ids, too, most of them ignored ones. A folder
of `*_labelTrainIds.png` under the other name trains without complaint, and scores wrongly.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, Int64

from cityseg.labels import CLASSES, LABELS, NUM_CLASSES

ROUNDED_SHARES: Final = (
    0.37, 0.06, 0.23, 0.007, 0.009, 0.012, 0.002, 0.006, 0.16, 0.012,
    0.04, 0.012, 0.0014, 0.07, 0.003, 0.0024, 0.0023, 0.001, 0.004,
)  # fmt: skip
"""Of the labelled pixels of Cityscapes' train split, by train id: road, sidewalk, building, ..."""

IGNORED_SHARE: Final = 0.1
"""Of all pixels; half of it unlabelled, as other data sets have it."""

FLOOR: Final = 1e-3
"""A share that any value may have under either reading."""

TELLING_SHARE: Final = 1e-3
"""Of the pixels above 18 that no train ids would have."""


def looks_like_train_ids(pixels: Int64[np.ndarray, "256"]) -> bool:
    """Whether values of label maps are likelier train ids than label ids.

    The pixels' likelihood is compared under the shares of the classes in street scenes, by both
    numberings. Any pixel of vegetation, sky, person or car by label ids (above 18) settles it.

    Args:
        pixels: how many have each value; 255 tells nothing.
    """
    known = pixels[: len(LABELS)].astype(float)
    if known.sum() == 0:
        return False
    shares = known / known.sum()
    if shares[NUM_CLASSES:].sum() > TELLING_SHARE:
        return False
    return bool((shares * np.log(_AS_TRAIN_IDS / _AS_LABEL_IDS)).sum() > 0)


def _expected(ids: list[int], ignored: list[int]) -> Float[np.ndarray, "34"]:
    """The share of each value, if the classes have these ids, and what is ignored has those."""
    shares = np.full(len(LABELS), FLOOR)
    shares[ids] += np.array(ROUNDED_SHARES) * (1 - IGNORED_SHARE)
    if ignored:
        shares[ignored] += IGNORED_SHARE / 2 / len(ignored)
        shares[0] += IGNORED_SHARE / 2
    return shares / shares.sum()


_AS_LABEL_IDS: Final = _expected(
    [label.id for label in CLASSES], [label.id for label in LABELS if label.train_id >= NUM_CLASSES]
)
_AS_TRAIN_IDS: Final = _expected(list(range(NUM_CLASSES)), [])
