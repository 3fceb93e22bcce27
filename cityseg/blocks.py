"""The blocks of 3x3 convolutions that bottleneck and decoder are built of, and their resizing."""

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn
from torch.compiler import is_exporting
from torch.nn.functional import interpolate, unfold
from torchvision.models.resnet import BasicBlock


class SameConv2d(nn.Conv2d):
    """A convolution without bias that keeps the size.

    Trained in float32 on a CPU it is one matrix product where there are fewer pixels than output
    channels: the weights, then larger than all they are multiplied by, are used where they lie.
    oneDNN would bring them into an order of its own three times a step, which takes longer than the
    arithmetic.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_px: int):
        super().__init__(in_channels, out_channels, kernel_px, padding=kernel_px // 2, bias=False)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """At the same size."""
        b, _, h, w = input.shape
        float32 = input.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not (self.training and float32 and b * h * w < self.out_channels):
            return super().forward(input)
        patches = unfold(input, kernel_size=self.kernel_size, padding=self.kernel_size[0] // 2)
        product = self.weight.flatten(1) @ patches.transpose(0, 1).flatten(1)
        return product.view(-1, b, h, w).transpose(0, 1)


class ConvBlock(nn.Sequential):
    """Two 3x3 Conv-BN-ReLU, and a Dropout2d where `dropout` is above 0."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0):
        super().__init__(
            *conv_bn_relu(in_channels, out_channels),
            *conv_bn_relu(out_channels, out_channels),
            nn.Dropout2d(dropout) if dropout else nn.Identity(),
        )


class DualBlock(nn.Sequential):
    """The paper's bottleneck: two ConvBlocks, one after the other."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0):
        super().__init__(
            ConvBlock(in_channels, out_channels, dropout),
            ConvBlock(out_channels, out_channels, dropout),
        )


class DeepBlock(nn.Sequential):
    """A ConvBlock, then residual ones of the same width: a deeper decoder stage.

    A residual one is torchvision's BasicBlock (He et al. 2016, fig. 2): a ConvBlock whose input is
    added before the last ReLU, so that depth does not get in the gradient's way. Cost of one in
    each of the paper's stages: +24.85 M parameters, +251.3 GFLOP.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int):
        super().__init__(
            ConvBlock(in_channels, out_channels),
            *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)),
        )


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 3) -> list[nn.Module]:
    """A convolution that keeps the size, batch norm in place of its bias, ReLU."""
    return [
        SameConv2d(in_channels, out_channels, kernel_size),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


def resize(x: Float[Tensor, "b c h w"], size: Size | tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear interpolation to exactly `size` (height, width), corners not aligned.

    Of the same size it is the identity, and skipped: under autocast it would turn to float32. An
    exported network, made for any size, has no such branch.
    """
    if not is_exporting() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def even(channels: float) -> int:
    """The nearest even number, at least 2: a transposed convolution halves it."""
    return max(2, 2 * round(channels / 2))
