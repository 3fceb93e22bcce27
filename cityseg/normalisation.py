"""Which normalisation stands where a network was built with batch norm.

Batch norm takes its statistics from the batch: of two frames they are noise. The others do not, or
take them from more.
"""

import math
from collections.abc import Callable
from typing import Final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

GROUPS: Final = 32
"""At most; Wu and He's."""


class FrozenBatchNorm(FrozenBatchNorm2d):
    """torchvision's batch norm with fixed statistics, weight and bias, as pretrained.

    Its forward pass is batch norm's own kernel: torchvision's arithmetic turns bfloat16 into
    float32 under autocast, twice the memory.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same in training and in evaluation."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def group_norm(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    """Statistics of a frame's own channels, 32 groups of them: independent of the batch.

    Source: Wu and He 2018, Group Normalization. Narrow layers have fewer groups, of at least two
    channels each. Cost: +0.00 M parameters, +0.0 GFLOP.
    """
    channels = norm.num_features
    return nn.GroupNorm(math.gcd(GROUPS, max(1, channels // 2)), channels, norm.eps)


def frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm:
    """Fixed statistics and weights: those that `norm` has, or that are loaded later.

    Usual in detection, where batches are small (He et al. 2017, Mask R-CNN, from its code). Worth
    something with pretrained weights alone. Cost, in the encoder: -0.05 M parameters, +0.0 GFLOP.
    """
    fixed = FrozenBatchNorm(norm.num_features, norm.eps)
    fixed.load_state_dict(norm.state_dict())
    return fixed


NORMS: Final[dict[str, Callable[[nn.BatchNorm2d], nn.Module]]] = {
    "batch": lambda norm: norm,
    "group": group_norm,
    "frozen": frozen,
    "synchronised": nn.SyncBatchNorm.convert_sync_batchnorm,
}
"""By the configuration's names. `synchronised` shares the statistics among the processes that train
one network; a cell of a study is one process, where it computes what `batch` computes."""


def normalise_by(part: nn.Module, kind: str) -> None:
    """Replace every batch norm below `part`, in place, by one of `NORMS`."""
    for name, child in part.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(part, name, NORMS[kind](child))
        else:
            normalise_by(child, kind)
