"""What the head is given of the decoder's stages: the last one's output, or all of them."""

from jaxtyping import Float
from torch import Tensor, nn

from cityseg.blocks import conv_bn_relu, resize


class Finest(nn.Module):
    """The last stage's output alone: the paper's."""

    def forward(self, outputs: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """The last of `outputs`, which come coarsest first."""
        return outputs[-1]


class FeaturePyramid(nn.Module):
    """The sum of all stages, each brought to the last one's channels and resolution step by step.

    Source: Kirillov et al. 2019, Panoptic Feature Pyramid Networks, section 3.1 (Semantic FPN): a
    3x3 Conv-norm-ReLU before each doubling, the sum over all levels.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        *coarser, finest = channels
        self.levels = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(*conv_bn_relu(own if step == 0 else finest, finest))
                for step in range(len(coarser) - level)
            )
            for level, own in enumerate(coarser)
        )
        self.last = nn.Sequential(*conv_bn_relu(finest, finest))

    def forward(self, outputs: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """At the last one's size; `outputs` come coarsest first."""
        total = self.last(outputs[-1])
        for level, x in enumerate(outputs[:-1]):
            for step, finer in zip(self.levels[level], outputs[level + 1 :], strict=True):
                x = resize(step(x), finer.shape[-2:])
            total = total + x
        return total
