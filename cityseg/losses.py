"""Losses of logits against train ids."""

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from cityseg.labels import IGNORE


def cross_entropy_sum(
    logits: Float[Tensor, "b c h w"], target: UInt8[Tensor, "b h w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum of the cross-entropy over the labelled pixels, in nats, and how many those are.

    Kept apart so that a mean over many batches is divided once. Computed in float32.
    """
    total = F.cross_entropy(logits.float(), target.long(), ignore_index=IGNORE, reduction="sum")
    return total, (target != IGNORE).sum().to(total.dtype)


def cross_entropy(
    logits: Float[Tensor, "b c h w"], target: UInt8[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the labelled pixels, in nats; 0 where no pixel is labelled.

    Paper, section 2: CrossEntropy with ignore_index 255.
    """
    total, pixels = cross_entropy_sum(logits, target)
    return total / pixels.clamp(min=1)
