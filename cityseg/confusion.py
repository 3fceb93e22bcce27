"""Counting (label, prediction) pairs of pixels, exactly."""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from cityseg.labels import IGNORE, NUM_CLASSES


def confusion_counts(
    prediction: UInt8[Tensor, "*size"] | Int64[Tensor, "*size"], target: UInt8[Tensor, "*size"]
) -> Int64[Tensor, "19 19"]:
    """Pixels by label (rows) and prediction (columns), both train ids; ignored labels are left out.

    Integers throughout: a float32 count is wrong beyond 2^24, eight full-resolution frames.
    """
    labelled = target != IGNORE
    pairs = target[labelled].long() * NUM_CLASSES + prediction[labelled].long()
    counts = torch.bincount(pairs, minlength=NUM_CLASSES**2)
    return counts.reshape(NUM_CLASSES, NUM_CLASSES)


def confusion_with_void(
    prediction: UInt8[np.ndarray, "*size"], target: UInt8[np.ndarray, "*size"]
) -> Int64[np.ndarray, "19 20"]:
    """As `confusion_counts` for predictions that may say "none of the 19" (train id 255).

    Those are counted in the 20th column: the official evaluator takes such a pixel as a miss of
    its label, and accuses no class of it.
    """
    labelled = target != IGNORE
    column = np.minimum(prediction[labelled], NUM_CLASSES).astype(np.int64)
    pairs = target[labelled].astype(np.int64) * (NUM_CLASSES + 1) + column
    counts = np.bincount(pairs, minlength=NUM_CLASSES * (NUM_CLASSES + 1))
    return counts.reshape(NUM_CLASSES, NUM_CLASSES + 1)
