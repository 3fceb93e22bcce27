"""Scoring label-id PNGs of anybody, by the official evaluator's rules, and what a score says.

Source of the rules: cityscapesScripts, `evalPixelLevelSemanticLabeling`.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64

from cityseg import parallel
from cityseg.confusion import confusion_with_void
from cityseg.data import NAME, Frame, read_prediction_ids, read_target
from cityseg.errors import InputError, counted, first_of
from cityseg.labels import CLASS_NAMES, NUM_CLASSES, TRAIN_ID_OF_LABEL_ID, unofficial_ids
from cityseg.metrics import intersection_over_union, mean_iou, pixel_accuracy

NAMES_SHOWN: Final = 5
"""Names that a message lists before it only counts them."""


@dataclass(frozen=True)
class Scores:
    """What confusion counts say, each 0-1; NaN where nothing was labelled."""

    miou: float
    pixel_accuracy: float
    iou: dict[str, float]
    """By class, in train-id order; NaN for a class that occurs on neither side."""

    def to_json(self) -> dict[str, object]:
        """Plain data with null for every NaN, which JSON does not have."""
        iou = {name: _finite(value) for name, value in self.iou.items()}
        accuracy = _finite(self.pixel_accuracy)
        return {"miou": _finite(self.miou), "pixel_accuracy": accuracy, "iou": iou}


@dataclass(frozen=True)
class Submission:
    """Predictions of a set of frames, compared with their labels."""

    names: list[str]
    confusion: Int64[np.ndarray, "n 19 20"]
    """Counts a frame; the 20th column holds predictions of none of the 19 classes."""
    highest_id: int
    """The largest value in any prediction."""

    def looks_like_train_ids(self) -> bool:
        """Whether no prediction has a value above 18, as if train ids were given for label ids."""
        return self.highest_id < NUM_CLASSES


def score(confusion: Int64[np.ndarray, "n c p"]) -> Scores:
    """Scores of a set from its counts a frame: summed first, divided once."""
    total = confusion.sum(0)
    iou = dict(zip(CLASS_NAMES, intersection_over_union(total).tolist(), strict=True))
    return Scores(float(mean_iou(total)), float(pixel_accuracy(total)), iou)


def read_submission(folder: Path, frames: list[Frame], processes: int | None = None) -> Submission:
    """Find, check and count the predictions of all frames.

    Raises:
        InputError: a frame without exactly one prediction; a prediction of another size than its
            label, that cannot be read, or with an id outside the official table.
    """
    pairs = list(zip(frames, find_predictions(folder, frames), strict=True))
    tallies = list(parallel.each(_count, pairs, "scoring", processes))
    names = [frame.name for frame in frames]
    confusion = np.stack([counts for counts, _ in tallies])
    return Submission(names, confusion, max(highest for _, highest in tallies))


def find_predictions(folder: Path, frames: list[Frame]) -> list[Path]:
    """The one PNG of each frame, anywhere below `folder`, whose name begins with the frame's.

    Raises:
        InputError: no such folder, or frames with no file or with several.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", remedy="give the predictions' by --predictions")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*.png")):
        if match := NAME.match(path.name):
            found[match[0]].append(path)
    missing = [frame.name for frame in frames if not found[frame.name]]
    several = [frame.name for frame in frames if len(found[frame.name]) > 1]
    parts = [_told("none", missing)] if missing else []
    parts += [_told("several", several)] if several else []
    if parts:
        raise InputError(
            f"predictions in {folder}",
            got=", ".join(parts),
            expected="one file {city}_{sequence}_{frame}*.png for every frame",
            remedy="name the folder that holds the label-id PNGs alone" if several else "",
        )
    return [found[frame.name][0] for frame in frames]


def _count(pair: tuple[Frame, Path]) -> tuple[Int64[np.ndarray, "19 20"], int]:
    """Confusion counts of one frame, and the highest id predicted."""
    frame, path = pair
    label_ids, target = read_prediction_ids(path), read_target(frame.label)
    if label_ids.shape != target.shape:
        raise InputError(
            f"{path}",
            got="{1}x{0} pixels".format(*label_ids.shape),
            expected="the {1}x{0} of its label".format(*target.shape),
        )
    unknown = unofficial_ids(label_ids)
    if unknown:
        raise InputError(f"{path}", got=f"value {unknown[0]}", expected="label ids, 0 to 33")
    counts = confusion_with_void(TRAIN_ID_OF_LABEL_ID[label_ids], target)
    return counts, int(label_ids.max())


def _told(what: str, names: list[str]) -> str:
    some = first_of(names, NAMES_SHOWN, ", ")
    return f"{what} for {counted(len(names), 'frame')} ({some})"


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
