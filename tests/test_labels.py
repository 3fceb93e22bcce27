"""The class table equals two independent copies of the official one."""

import numpy as np
from cityscapesscripts.helpers.labels import labels as official
from torchvision.datasets import Cityscapes

from cityseg.labels import (
    CLASS_NAMES,
    COLOR_OF_TRAIN_ID,
    IGNORE,
    LABEL_ID_OF_TRAIN_ID,
    LABELS,
    NUM_CLASSES,
    TRAIN_ID_OF_LABEL_ID,
)


def test_every_row_is_the_official_scripts_row():
    theirs = [
        (row.name, row.id, IGNORE if row.ignoreInEval else row.trainId, row.color)
        for row in official
        if row.id >= 0
    ]
    assert [tuple(label) for label in LABELS] == theirs


def test_every_row_is_torchvisions_row():
    theirs = [
        (row.name, row.id, IGNORE if row.ignore_in_eval else row.train_id, row.color)
        for row in Cityscapes.classes
        if row.id >= 0
    ]
    assert [tuple(label) for label in LABELS] == theirs


def test_the_lookup_tables_agree_with_torchvision_on_all_256_values():
    scored = {row.id: row for row in Cityscapes.classes if row.id >= 0 and not row.ignore_in_eval}
    for value in range(256):
        wanted = scored[value].train_id if value in scored else IGNORE
        assert TRAIN_ID_OF_LABEL_ID[value] == wanted
    for row in scored.values():
        assert LABEL_ID_OF_TRAIN_ID[row.train_id] == row.id
        assert tuple(COLOR_OF_TRAIN_ID[row.train_id]) == row.color
        assert CLASS_NAMES[row.train_id] == row.name


def test_a_prediction_written_as_label_ids_reads_back_as_the_same_train_ids():
    classes = np.arange(NUM_CLASSES, dtype=np.uint8)
    assert NUM_CLASSES == 19
    assert (TRAIN_ID_OF_LABEL_ID[LABEL_ID_OF_TRAIN_ID[classes]] == classes).all()
    assert (LABEL_ID_OF_TRAIN_ID[NUM_CLASSES:] == 0).all()
    assert (COLOR_OF_TRAIN_ID[NUM_CLASSES:] == 0).all()
