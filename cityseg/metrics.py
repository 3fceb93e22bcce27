"""Scores from confusion counts: sum the counts first, divide once.

The rules are the official evaluator's (cityscapesScripts, `evalPixelLevelSemanticLabeling`):
pixels whose label is ignored count for nothing; a class with TP + FP + FN = 0 has no score (NaN)
and is left out of the mean; a class that is only predicted scores 0 and counts.

A confusion matrix here is int64[..., 19, 19] or int64[..., 19, 20]: rows are labels, columns are
predictions, and a 20th column holds predictions of none of the 19 classes (label ids that are not
scored), which miss their label and accuse no class.
"""

import numpy as np
from jaxtyping import Float64, Int64


def intersection_over_union(
    confusion: Int64[np.ndarray, "*batch c p"],
) -> Float64[np.ndarray, "*batch c"]:
    """IoU of each class, TP / (TP + FP + FN), 0-1; NaN for a class that occurs on neither side."""
    classes = confusion.shape[-2]
    square = confusion[..., :classes]
    hits = np.diagonal(square, axis1=-2, axis2=-1)
    union = confusion.sum(-1) + square.sum(-2) - hits
    with np.errstate(invalid="ignore"):
        return hits / np.where(union == 0, np.nan, union)


def mean_iou(confusion: Int64[np.ndarray, "*batch c p"]) -> Float64[np.ndarray, "*batch"]:
    """Mean of the classes' IoU over those that have one, 0-1; NaN if none has."""
    iou = intersection_over_union(confusion)
    scored = ~np.isnan(iou)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(iou, -1) / np.where(scored.any(-1), scored.sum(-1), np.nan)
    return np.asarray(mean)


def pixel_accuracy(confusion: Int64[np.ndarray, "*batch c p"]) -> Float64[np.ndarray, "*batch"]:
    """Share of the labelled pixels whose class is right, 0-1; NaN without labelled pixels."""
    total = confusion.sum((-2, -1))
    hits = np.trace(confusion[..., : confusion.shape[-2]], axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        share = hits / np.where(total == 0, np.nan, total)
    return np.asarray(share)
