"""Losses of logits against train ids."""

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from cityseg.labels import IGNORE


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
