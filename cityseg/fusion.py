"""What the head is given of the decoder's stages: the last one's output, or all of them."""

from jaxtyping import Float
from torch import Tensor, nn

from cityseg.blocks import conv_bn_relu, resize


class Finest(nn.Module):
    """The last stage's output alone: the paper's."""

    def forward(self, outputs: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """The last of `outputs`, which come coarsest first."""
        return outputs[-1]


class Ascent(nn.ModuleList):
    """Convolutions, each before a doubling."""

    def forward(
        self, x: Float[Tensor, "b _ _ _"], finer: list[Float[Tensor, "b _ _ _"]]
    ) -> Float[Tensor, "b _ _ _"]:
        """`x` convolved and brought to the size of each of `finer` in turn."""
        for convolution, goal in zip(self, finer, strict=True):
            x = resize(convolution(x), goal.shape[-2:])
        return x


class FeaturePyramid(nn.Module):
    """The sum of all stages, each brought to the last one's channels and resolution step by step.

    Source: Kirillov et al. 2019, Panoptic Feature Pyramid Networks, section 3.1 (Semantic FPN): a
    3x3 Conv-norm-ReLU before each doubling, the sum over all levels. Cost: +1.18 M parameters,
    +32.0 GFLOP.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        *coarser, finest = channels
        self.levels = nn.ModuleList(
            Ascent(
                nn.Sequential(*conv_bn_relu(own if step == 0 else finest, finest))
                for step in range(len(coarser) - level)
            )
            for level, own in enumerate(coarser)
        )
        self.last = nn.Sequential(*conv_bn_relu(finest, finest))

    def forward(self, outputs: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """At the last one's size; `outputs` come coarsest first."""
        total = self.last(outputs[-1])
        for i, level in enumerate(self.levels):
            total = total + level(outputs[i], outputs[i + 1 :])
        return total
