"""The Cityscapes class table: label ids as shipped, train ids as trained, names and colours.

Source: cityscapesScripts, `cityscapesscripts/helpers/labels.py` (the official definition).
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import UInt8

IGNORE: Final = 255
"""Train id of every pixel that counts for nothing, in training as in the metric."""


class Label(NamedTuple):
    """One row of the official table."""

    name: str
    id: int
    train_id: int
    color: tuple[int, int, int]
    """RGB, 0-255."""


LABELS: Final = (
    Label("unlabeled", 0, IGNORE, (0, 0, 0)),
    Label("ego vehicle", 1, IGNORE, (0, 0, 0)),
    Label("rectification border", 2, IGNORE, (0, 0, 0)),
    Label("out of roi", 3, IGNORE, (0, 0, 0)),
    Label("static", 4, IGNORE, (0, 0, 0)),
    Label("dynamic", 5, IGNORE, (111, 74, 0)),
    Label("ground", 6, IGNORE, (81, 0, 81)),
    Label("road", 7, 0, (128, 64, 128)),
    Label("sidewalk", 8, 1, (244, 35, 232)),
    Label("parking", 9, IGNORE, (250, 170, 160)),
    Label("rail track", 10, IGNORE, (230, 150, 140)),
    Label("building", 11, 2, (70, 70, 70)),
    Label("wall", 12, 3, (102, 102, 156)),
    Label("fence", 13, 4, (190, 153, 153)),
    Label("guard rail", 14, IGNORE, (180, 165, 180)),
    Label("bridge", 15, IGNORE, (150, 100, 100)),
    Label("tunnel", 16, IGNORE, (150, 120, 90)),
    Label("pole", 17, 5, (153, 153, 153)),
    Label("polegroup", 18, IGNORE, (153, 153, 153)),
    Label("traffic light", 19, 6, (250, 170, 30)),
    Label("traffic sign", 20, 7, (220, 220, 0)),
    Label("vegetation", 21, 8, (107, 142, 35)),
    Label("terrain", 22, 9, (152, 251, 152)),
    Label("sky", 23, 10, (70, 130, 180)),
    Label("person", 24, 11, (220, 20, 60)),
    Label("rider", 25, 12, (255, 0, 0)),
    Label("car", 26, 13, (0, 0, 142)),
    Label("truck", 27, 14, (0, 0, 70)),
    Label("bus", 28, 15, (0, 60, 100)),
    Label("caravan", 29, IGNORE, (0, 0, 90)),
    Label("trailer", 30, IGNORE, (0, 0, 110)),
    Label("train", 31, 16, (0, 80, 100)),
    Label("motorcycle", 32, 17, (0, 0, 230)),
    Label("bicycle", 33, 18, (119, 11, 32)),
)
"""The 34 labels that can occur in a `labelIds` file (licence plate, -1, never does)."""

CLASSES: Final = tuple(
    sorted((row for row in LABELS if row.train_id != IGNORE), key=lambda row: row.train_id)
)
"""The 19 classes that are trained and scored, in train-id order."""

CLASS_NAMES: Final = tuple(label.name for label in CLASSES)
NUM_CLASSES: Final = len(CLASSES)

TRAIN_ID_OF_LABEL_ID: Final = np.full(256, IGNORE, np.uint8)
"""Lookup table uint8[256]: label id -> train id, IGNORE for all that is not scored."""
TRAIN_ID_OF_LABEL_ID[[label.id for label in CLASSES]] = np.arange(NUM_CLASSES)

LABEL_ID_OF_TRAIN_ID: Final = np.zeros(256, np.uint8)
"""Lookup table uint8[256]: train id -> label id, 0 ("unlabeled") for IGNORE and all else."""
LABEL_ID_OF_TRAIN_ID[:NUM_CLASSES] = [label.id for label in CLASSES]

COLOR_OF_TRAIN_ID: Final = np.zeros((256, 3), np.uint8)
"""Lookup table uint8[256, 3]: train id -> RGB, black for IGNORE."""
COLOR_OF_TRAIN_ID[:NUM_CLASSES] = [label.color for label in CLASSES]


def is_official(value: int) -> bool:
    """Whether a value of a label map is a label id of the official table."""
    return value < len(LABELS)


def unofficial_ids(label_ids: UInt8[np.ndarray, "*size"]) -> list[int]:
    """Values of a label map that are no label id of the official table, ascending."""
    counts = np.bincount(label_ids.ravel(), minlength=256)
    return [int(value) for value in np.flatnonzero(counts) if not is_official(int(value))]
