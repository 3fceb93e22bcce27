"""What may stand in a skip: attention that weighs the encoder's feature before it is concatenated.

All take the skip and the coarser decoder feature that is about to be fused with it, and return the
skip, weighed; every weight is between 0 and 1. A part's cost is what it adds to the
paper's network at 512x1024, a multiply-add taken as two FLOP (`python -m benchmarks.parts`).
"""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from cityseg.blocks import resize

REDUCTION: Final = 16
"""Channels to channels of the layer in between; SE's and CBAM's own."""
LEAST: Final = 8
"""Channels of that layer: of fewer, a ReLU may let none through."""
OPEN: Final = 3.0
"""A gate's first bias: its weights begin near sigmoid(3) = 0.95, so that all of the skip passes
(Oktay et al. 2018, implementation details)."""


class PlainSkip(nn.Module):
    """The skip as it is: the paper's."""

    def forward(
        self, skip: Float[Tensor, "b s h w"], _coarse: Float[Tensor, "b c _ _"]
    ) -> Float[Tensor, "b s h w"]:
        """`skip`."""
        return skip


class AttentionGate(nn.Module):
    """Weighs each place of the skip by how well it goes with the coarser feature there.

    Source: Oktay et al. 2018, Attention U-Net, eq. 1-3 and fig. 2: additive attention at the coarse
    resolution, half of the skip's channels in between. Cost: +4.15 M parameters, +10.7 GFLOP.
    """

    def __init__(self, skip_channels: int, coarse_channels: int):
        super().__init__()
        between = max(1, skip_channels // 2)
        self.of_skip = nn.Conv2d(skip_channels, between, kernel_size=2, stride=2, bias=False)
        self.of_coarse = nn.Conv2d(coarse_channels, between, kernel_size=1)
        self.weight = nn.Conv2d(between, 1, kernel_size=1)
        nn.init.constant_(self.weight.bias, OPEN)  # pyright: ignore[reportArgumentType] # a bias is None only where it is turned off

    def forward(
        self, skip: Float[Tensor, "b s h w"], coarse: Float[Tensor, "b c h2 w2"]
    ) -> Float[Tensor, "b s h w"]:
        """The skip times one weight a place, interpolated from the coarse resolution."""
        both = resize(self.of_skip(skip), coarse.shape[-2:]) + self.of_coarse(coarse)
        weight = torch.sigmoid(self.weight(torch.relu(both)))
        return skip * resize(weight, skip.shape[-2:])


class SqueezeExcitedSkip(nn.Module):
    """Weighs each channel of the skip by the means of all channels.

    Source: Hu et al. 2018, Squeeze-and-Excitation Networks, fig. 2; torchvision's.
    Cost: +0.18 M parameters, +0.0 GFLOP.
    """

    def __init__(self, skip_channels: int, _coarse_channels: int):
        super().__init__()
        self.attention = SqueezeExcitation(skip_channels, max(LEAST, skip_channels // REDUCTION))

    def forward(
        self, skip: Float[Tensor, "b s h w"], _coarse: Float[Tensor, "b c _ _"]
    ) -> Float[Tensor, "b s h w"]:
        """The skip times one weight a channel."""
        return self.attention(skip)


class CBAMSkip(nn.Module):
    """Weighs the channels of the skip by their means and maxima, then its places likewise.

    Source: Woo et al. 2018, CBAM: Convolutional Block Attention Module, eq. 1-3.
    Cost: +0.17 M parameters, +0.0 GFLOP.
    """

    def __init__(self, skip_channels: int, _coarse_channels: int):
        super().__init__()
        between = max(LEAST, skip_channels // REDUCTION)
        self.of_channels = nn.Sequential(
            nn.Conv2d(skip_channels, between, kernel_size=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(between, skip_channels, kernel_size=1, bias=False),
        )
        self.of_places = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(
        self, skip: Float[Tensor, "b s h w"], _coarse: Float[Tensor, "b c _ _"]
    ) -> Float[Tensor, "b s h w"]:
        """The skip times one weight a channel, times one weight a place."""
        mean, peak = skip.mean((2, 3), keepdim=True), skip.amax((2, 3), keepdim=True)
        x = skip * torch.sigmoid(self.of_channels(mean) + self.of_channels(peak))
        places = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.of_places(places))


SKIPS: Final[dict[str, Callable[[int, int], nn.Module]]] = {
    "plain": lambda _skip, _coarse: PlainSkip(),
    "attention": AttentionGate,
    "squeeze": SqueezeExcitedSkip,
    "cbam": CBAMSkip,
}
"""By the configuration's names; made from the channels of the skip and of the coarser feature."""
