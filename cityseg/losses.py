"""Losses of logits against train ids: what training lowers, and what validation adds up.

All are computed in float32, leave pixels without a label (255) out of every sum, and are 0 where no
pixel has one. None has a shape that depends on the labels and none waits for the device, so that
all of them can be recorded and compiled; on a GPU each adds up in a fixed order.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from cityseg.config import Loss
from cityseg.labels import IGNORE, NUM_CLASSES

Criterion = Callable[[Float[Tensor, "b c h w"], UInt8[Tensor, "b h w"]], Float[Tensor, ""]]
"""A loss of logits against train ids, averaged over the labelled pixels."""


def cross_entropy_sum(
    logits: Float[Tensor, "b c h w"], target: UInt8[Tensor, "b h w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum of the cross-entropy over the labelled pixels, in nats, and how many those are.

    Kept apart so that a mean over many batches is divided once. Computed in float32. By a gather:
    torch's own two-dimensional loss adds up in no fixed order on a GPU.
    """
    labelled = target != IGNORE
    own_class = target.masked_fill(~labelled, 0).long()
    log_likelihood = F.log_softmax(logits.float(), dim=1).gather(1, own_class[:, None])[:, 0]
    return -log_likelihood.masked_fill(~labelled, 0).sum(), labelled.sum().float()


def cross_entropy(
    logits: Float[Tensor, "b c h w"], target: UInt8[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the labelled pixels, in nats; 0 where no pixel is labelled.

    Paper, section 2: CrossEntropy with ignore_index 255.
    """
    total, pixels = cross_entropy_sum(logits, target)
    return total / pixels.clamp(min=1)


def criterion_of(settings: Loss, counts: Int64[np.ndarray, "n c"] | None = None) -> "Mixture":
    """The configured loss.

    Args:
        settings: which parts, and their weights.
        counts: pixels of every class in each frame of the training part; only class weights, which
            are computed from them, want it.
    """
    parts: dict[str, tuple[float, Criterion]] = {
        "cross_entropy": (settings.cross_entropy, _cross_entropy_of(settings, counts)),
        "dice": (settings.dice, dice),
        "lovasz": (settings.lovasz, lovasz_softmax),
    }
    return Mixture([part for part in parts.values() if part[0]])


def _cross_entropy_of(settings: Loss, counts: Int64[np.ndarray, "n c"] | None) -> Criterion:
    plain = settings.class_weights == "none" and not settings.label_smoothing and not settings.ohem
    if plain:
        return cross_entropy
    weights = torch.ones(NUM_CLASSES)
    if settings.class_weights == "median_frequency":
        assert counts is not None, "class weights want the counts of the training part"
        weights = median_frequency_weights(counts)
    mining = (
        HardPixels(settings.ohem_threshold, settings.ohem_min_kept) if settings.ohem else all_pixels
    )
    return CrossEntropy(weights, settings.label_smoothing, mining)


class Mixture(nn.Module):
    """A weighted sum of losses."""

    def __init__(self, parts: list[tuple[float, Criterion]]):
        super().__init__()
        self.weights = [weight for weight, _ in parts]
        self.parts = [part for _, part in parts]
        self.modules_of_parts = nn.ModuleList(p for p in self.parts if isinstance(p, nn.Module))

    def forward(
        self, logits: Float[Tensor, "b c h w"], target: UInt8[Tensor, "b h w"]
    ) -> Float[Tensor, ""]:
        """The sum of the parts, each times its weight."""
        losses = [
            w * part(logits, target) for w, part in zip(self.weights, self.parts, strict=True)
        ]
        return torch.stack(losses).sum()


Mining = Callable[[Float[Tensor, "b h w"], Bool[Tensor, "b h w"]], Bool[Tensor, "b h w"]]
"""Which pixels a loss is of, by the probability of each one's own class and whether it has one."""


class CrossEntropy(nn.Module):
    """Cross-entropy with class weights, label smoothing and a choice of pixels.

    With all pixels it is `torch.nn.CrossEntropyLoss(weights, ignore_index=255, label_smoothing)`: a
    mean in which each pixel counts by the weight of its own class.
    """

    def __init__(self, weights: Float[Tensor, " c"], smoothing: float, mining: Mining):
        super().__init__()
        self.register_buffer("weights", weights)
        self.weights: Tensor
        self.smoothing = smoothing
        self.mining = mining

    def forward(
        self, logits: Float[Tensor, "b c h w"], target: UInt8[Tensor, "b h w"]
    ) -> Float[Tensor, ""]:
        """Weighted mean over the chosen pixels, in nats; 0 where there is none."""
        labelled = target != IGNORE
        own_class = target.masked_fill(~labelled, 0).long()
        log_likelihoods = F.log_softmax(logits.float(), dim=1)
        own = log_likelihoods.gather(1, own_class[:, None])[:, 0]
        chosen = self.mining(own.detach().exp(), labelled)
        weight = self.weights[own_class].masked_fill(~chosen, 0)
        spread = (log_likelihoods * self.weights[:, None, None]).mean(1).masked_fill(~chosen, 0)
        total = (1 - self.smoothing) * (weight * own).sum() + self.smoothing * spread.sum()
        return -total / weight.sum().clamp(min=torch.finfo(torch.float32).tiny)


def all_pixels(
    own: Float[Tensor, "b h w"], labelled: Bool[Tensor, "b h w"]
) -> Bool[Tensor, "b h w"]:
    """Every labelled pixel."""
    return labelled


class HardPixels:
    """Online hard example mining (Shrivastava et al. 2016), of pixels, as mmsegmentation's.

    A pixel is kept if its own class has less than `threshold`; of a batch in which too few are so
    hard, the hardest ones, as many as `min_kept` of all its pixels.
    """

    def __init__(self, threshold: float, min_kept: float):
        self.threshold = threshold
        self.min_kept = min_kept

    def __call__(
        self, own: Float[Tensor, "b h w"], labelled: Bool[Tensor, "b h w"]
    ) -> Bool[Tensor, "b h w"]:
        """The hard ones among the labelled."""
        wanted = max(1, round(self.min_kept * own.numel()))
        hardest_first = own.masked_fill(~labelled, 2.0).flatten().sort().values
        last = (labelled.sum() - 1).clamp(min=0, max=wanted - 1)
        hard_enough = hardest_first.gather(0, last[None])[0]
        return labelled & ((own < self.threshold) | (own <= hard_enough))


def median_frequency_weights(counts: Int64[np.ndarray, "n c"]) -> Float[Tensor, " c"]:
    """Median frequency balancing (Eigen and Fergus 2015, section 6.3.2).

    The frequency of a class is its share of the labelled pixels of those frames that hold it; its
    weight is the median of all frequencies over its own. A class of no frame weighs 1.

    Args:
        counts: pixels of every class in each frame.
    """
    there = counts.any(0)
    of_holders = ((counts > 0) * counts.sum(1, keepdims=True)).sum(0)
    frequency = counts.sum(0)[there] / of_holders[there]
    weights = torch.ones(counts.shape[1])
    if there.any():
        weights[torch.from_numpy(there)] = torch.from_numpy(
            np.median(frequency) / frequency
        ).float()
    return weights


def dice(logits: Float[Tensor, "b c h w"], target: UInt8[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """1 - the mean soft Dice coefficient of the classes that are in the batch (Sudre et al. 2017).

    Of one class: twice the probability that falls on its own pixels, over all its probability and
    all its pixels. The whole batch is counted as one image.
    """
    labelled, is_class = _one_hot(target, logits.shape[1])
    likelihood = logits.float().softmax(1) * labelled[:, None]
    hit = (likelihood * is_class).sum((0, 2, 3))
    pixels = is_class.sum((0, 2, 3))
    coefficient = 2 * hit / (likelihood.sum((0, 2, 3)) + pixels).clamp(min=1)
    return _mean_of_present(1 - coefficient, pixels > 0)


def lovasz_softmax(
    logits: Float[Tensor, "b c h w"], target: UInt8[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """The Lovasz extension of 1 - Jaccard, mean of the classes in the batch (Berman et al. 2018).

    Equations 8 to 13. The whole batch is counted as one image. Pixels without a label are put
    behind all others, where an error of 0 adds nothing.
    """
    labelled, is_class = _one_hot(target, logits.shape[1])
    likelihood = logits.float().softmax(1)
    error = (is_class.float() - likelihood).abs() * labelled[:, None]
    by_class = error.transpose(0, 1).flatten(1)
    with torch.no_grad():
        ranked = by_class.masked_fill(~labelled.flatten(), -1.0)
        order = ranked.argsort(dim=1, descending=True, stable=True)
        own = is_class.transpose(0, 1).flatten(1)
        steps = _jaccard_steps(own.gather(1, order))
        slope = torch.zeros_like(by_class).scatter(1, order, steps)
    return _mean_of_present((by_class * slope).sum(1), own.any(1))


def _jaccard_steps(own: Bool[Tensor, "c p"]) -> Float[Tensor, "c p"]:
    """How much each further wrong pixel, in this order, adds to 1 - Jaccard (algorithm 1).

    Args:
        own: whether each pixel is of the class. Counted in whole numbers: exact at any size, and
            the same on every run.
    """
    pixels = own.sum(1, keepdim=True)
    intersection = pixels - own.long().cumsum(1)
    union = pixels + (~own).long().cumsum(1)
    jaccard = 1 - intersection.double() / union.clamp(min=1)
    return jaccard.diff(dim=1, prepend=torch.zeros_like(jaccard[:, :1])).float()


def _one_hot(
    target: UInt8[Tensor, "b h w"], classes: int
) -> tuple[Bool[Tensor, "b h w"], Bool[Tensor, "b c h w"]]:
    """Which pixels are labelled, and of which class each is: of none without a label."""
    ids = torch.arange(classes, dtype=torch.uint8, device=target.device)
    return target != IGNORE, target[:, None] == ids[:, None, None]


def _mean_of_present(losses: Float[Tensor, " c"], present: Bool[Tensor, " c"]) -> Float[Tensor, ""]:
    """Mean over the classes that are there; 0 where there is none."""
    return losses.masked_fill(~present, 0).sum() / present.sum().clamp(min=1)
