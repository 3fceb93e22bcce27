"""Counting (label, prediction) pairs of pixels, exactly."""

import numpy as np
import torch
from jaxtyping import Int32, Int64, UInt8
from torch import Tensor

from cityseg.labels import IGNORE, NUM_CLASSES


def confusion_counts(
    prediction: UInt8[Tensor, " b *size"] | Int64[Tensor, " b *size"],
    target: UInt8[Tensor, " b *size"],
) -> Int64[Tensor, "b 19 19"]:
    """Pixels of each frame by label (rows) and prediction (columns), both train ids.

    Ignored labels are left out. Integers throughout: a float32 count is wrong beyond 2^24, eight
    full-resolution frames.
    """
    if target.device.type == "cuda":
        return counts_at_once(prediction, target)
    return torch.stack([counts_of_one(p, t) for p, t in zip(prediction, target, strict=True)])


def counts_of_one(
    prediction: UInt8[Tensor, "*size"] | Int64[Tensor, "*size"], target: UInt8[Tensor, "*size"]
) -> Int64[Tensor, "19 19"]:
    """`confusion_counts` of one frame: on a CPU the faster form.

    Every label byte gets a row, the ignored one too, so that no pixel has to be picked out first.
    """
    pairs = target.to(torch.int16) * NUM_CLASSES + prediction.to(torch.int16)
    counts = torch.bincount(pairs.flatten(), minlength=256 * NUM_CLASSES)
    return counts.reshape(256, NUM_CLASSES)[:NUM_CLASSES]


def counts_at_once(
    prediction: UInt8[Tensor, " b *size"] | Int64[Tensor, " b *size"],
    target: UInt8[Tensor, " b *size"],
) -> Int64[Tensor, "b 19 19"]:
    """`confusion_counts` in one go, for which a GPU is not waited for."""
    rows = NUM_CLASSES + 1  # the last one takes the ignored labels
    frame = torch.arange(len(target), device=target.device, dtype=torch.int32)[:, None] * rows
    row = frame + target.masked_fill(target == IGNORE, NUM_CLASSES).flatten(1)
    pairs = row * NUM_CLASSES + prediction.flatten(1)
    counts = _histogram(pairs.flatten(), len(target) * rows * NUM_CLASSES)
    return counts.reshape(len(target), rows, NUM_CLASSES)[:, :NUM_CLASSES]


def _histogram(values: Int32[Tensor, " n"], bins: int) -> Int64[Tensor, " {bins}"]:
    """How often each of 0 .. bins - 1 occurs."""
    if values.is_cuda and not torch.are_deterministic_algorithms_enabled():
        # `bincount` waits for the device to learn the largest value
        return torch.histc(values, bins, min=0, max=bins).long()
    return torch.bincount(values, minlength=bins)


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
