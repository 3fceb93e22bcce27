"""What may stand at the bottleneck: the paper's convolutions, or a view of the whole frame.

Each turns the encoder's last feature into one of the width that the decoder expects. A part's
cost is what the paper's network at 512x1024 has more with it in place of the dual ConvBlock.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from cityseg.blocks import conv_bn_relu, resize

BINS: Final = (1, 2, 3, 6)
"""Cells a side that the frame is averaged over; PSPNet's."""
ATROUS_REACH_PX: Final = 96
"""Of the input, from the centre of an atrous convolution to its edge, times 1, 2 and 3: DeepLabv3's
rates of 6, 12 and 18 at 1/16, which are 3, 6 and 9 at 1/32."""


class PyramidPooling(nn.Module):
    """Means over 1, 2x2, 3x3 and 6x6 cells of the frame, beside the feature itself.

    Source: Zhao et al. 2017, Pyramid Scene Parsing Network, section 3.2; a quarter of the channels
    a level, and a 3x3 convolution over all. Cost: -71.31 M parameters, -77.2 GFLOP.

    The coarsest level is one value a channel and frame. Batch norm of a batch of two leaves no more
    of it than which frame has the larger: use `model.normalisation: group` with small batches.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        level = max(1, in_channels // len(BINS))
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *conv_bn_relu(in_channels, level, 1))
            for bins in BINS
        )
        self.fuse = nn.Sequential(*conv_bn_relu(in_channels + len(BINS) * level, out_channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """At the resolution of x."""
        levels = [resize(level(x), x.shape[-2:]) for level in self.levels]
        return self.fuse(torch.cat([x, *levels], dim=1))


class AtrousPyramid(ASPP):
    """Convolutions of 1x1, of three widening reaches, and the frame's mean; torchvision's ASPP.

    Source: Chen et al. 2017, Rethinking Atrous Convolution (DeepLabv3), section 3.3; with its
    dropout of 0.5. Of the mean under batch norm see `PyramidPooling`. Cost: -8.38 M parameters,
    -12.9 GFLOP.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        rate = ATROUS_REACH_PX // stride
        super().__init__(in_channels, (rate, 2 * rate, 3 * rate), out_channels)
