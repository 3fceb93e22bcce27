"""A study on disk without any training: tiny frames, made-up epochs and predictions."""

from pathlib import Path

import numpy as np
from PIL import Image
from tiny import write_frame

from cityseg.cell import Confusion, Counts, Epoch, write_confusion, write_epochs
from cityseg.config import parse
from cityseg.data import Kind
from cityseg.folds import FoldsFile, write_folds
from cityseg.labels import IGNORE, LABEL_ID_OF_TRAIN_ID, NUM_CLASSES
from study.space import Origin, Parameters, Search
from study.store import DataRecord, Row, Study, StudyRecord

EPOCHS = 4
FRAMES = tuple(f"{city}_000000_{i:06d}" for city in ("aa", "bb") for i in range(3))
FOLDS = [list(FRAMES[k::3]) for k in range(3)]


def make_study(
    results: Path,
    kind: Kind = "synthetic",
    name: str = "fake_1",
    search: Search = Search(),  # noqa: B008 (frozen)
) -> Study:
    """A study of three folds with data, and no cell yet."""
    study = Study(results / name)
    folds = FoldsFile(grouping="frames", seed=0, folds=FOLDS)
    write_folds(study.folds_file, folds)
    root = results.parent / "data"
    for i, frame in enumerate(FRAMES):
        write_train_ids(root, frame, target(i))
    data = DataRecord(root=root, kind=kind, frames=len(FRAMES), cities={}, fingerprint="0")
    study.write(
        StudyRecord(
            name=name,
            created="2025-01-01T00:00:00+00:00",
            command="made up",
            data=data,
            folds_hash=folds.content_hash(),
            config=parse({"train": {"epochs": EPOCHS}}, "fake study"),
            search=search,
            versions={},
            hardware={},
        )
    )
    return study


def target(i: int) -> np.ndarray:
    """Train ids uint8[8, 16]: sky, road, ignored pixels below, a car in every other frame."""
    ids = np.full((8, 16), 10, np.uint8)
    ids[4:] = 0
    ids[7] = IGNORE
    if i % 2:
        ids[4:6, 3:6] = 13
    return ids


def write_train_ids(root: Path, name: str, ids: np.ndarray) -> None:
    """One frame of the train split from its train ids; the image shows them in grey."""
    image = np.repeat(10 * ids[..., None], 3, 2)
    write_frame(root, "train", name, image, LABEL_ID_OF_TRAIN_ID[ids])


def add_row(study: Study, variant: int, parameters: Parameters, origin: Origin = "given") -> None:
    """A row beside the base one, without any cell yet."""
    study.write_row(Row(variant=variant, origin=origin, parameters=parameters))


def make_study_of_rows(results: Path, kind: Kind = "synthetic") -> Study:
    """Six of eight rows: v002 is the best, v003 pruned, v004 failed, v005 not begun.

    The more road is taken for sidewalk, the lower the score: 3, 6 and 9 pixels in the base row's
    folds, 2, 4 and 6 in v001's, 1, 3 and 2 in v002's.
    """
    study = make_study(results, kind, search=Search(variants=8, prune=True))
    for variant in range(1, 6):
        add_row(study, variant, {"train.lr": 1e-4 * variant, "model.dropout": 0.1})
    for variant, wrong in {0: (3, 6, 9), 1: (2, 4, 6), 2: (1, 3, 2)}.items():
        for fold in (1, 2, 3):
            px = wrong[fold - 1]
            add_epochs(study, fold, [0.1, 0.9 - px / 100, 0.3, 0.8 - px / 100], variant)
            finish(study, fold, variant=variant, wrong_px=px)
    add_epochs(study, 1, [0.1, 0.2], variant=3)
    study.pruned_file(3).write_text("epoch 2: 0.05 | below [v002]\n")
    add_epochs(study, 1, [0.1], variant=4)
    add_epochs(study, 2, [0.1], variant=4)
    study.cell(4, 2).failure.write_text("loss is nan\n")
    return study


def add_epochs(study: Study, fold: int, scores: list[float], variant: int = 0) -> None:
    """Finished epochs with these low-res mIoU."""
    rows = [
        Epoch(i, 2 / i, 3 / i, score, score / 2, 1e-4 / i, 1.0, 1.0, 1.0)
        for i, score in enumerate(scores, 1)
    ]
    write_epochs(study.cell(variant, fold).epochs, rows)


def finish(
    study: Study,
    fold: int,
    counts: np.ndarray | None = None,
    variant: int = 0,
    wrong_px: int | None = None,
) -> None:
    """A finished cell: counts int64[n, 19, 19] are given, or those of its (kept) predictions.

    The predictions are right but for some road pixels a frame that are taken for sidewalk: as many
    as the fold's number, unless `wrong_px` (up to 16) says otherwise.
    """
    cell, names = study.cell(variant, fold), FOLDS[fold - 1]
    if not cell.epochs.is_file():
        add_epochs(study, fold, [0.1, 0.3, 0.3, 0.2], variant)
    if counts is None:
        counts = np.zeros((len(names), NUM_CLASSES, NUM_CLASSES), np.int64)
        for row, name in zip(counts, names, strict=True):
            ids = target(FRAMES.index(name))
            predicted = np.where(ids == IGNORE, 0, ids)
            predicted[6, : fold if wrong_px is None else wrong_px] = 1
            valid = ids != IGNORE
            np.add.at(row, (ids[valid], predicted[valid]), 1)
            cell.predictions.mkdir(exist_ok=True)
            png = Image.fromarray(LABEL_ID_OF_TRAIN_ID[predicted])
            png.save(cell.predictions / f"{name}_labelIds.png")
    write_confusion(cell.confusion, confusion_of(fold, counts, counts, counts, counts))


def confusion_of(fold: int, *tables: np.ndarray) -> Confusion:
    """Of best low, best full, last low and last full; frames that they lack have no count."""
    names = FOLDS[fold - 1]
    low, full, last_low, last_full = (
        np.concatenate([table, np.zeros((len(names) - len(table), NUM_CLASSES, NUM_CLASSES), int)])
        for table in tables
    )
    return Confusion(names, Counts(2, low, full), Counts(EPOCHS, last_low, last_full))
