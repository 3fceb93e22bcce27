"""The blocks of 3x3 convolutions that bottleneck and decoder are built of, and their resizing."""

from jaxtyping import Float
from torch import Size, Tensor, nn
from torch.compiler import is_exporting
from torch.nn.functional import interpolate
from torchvision.models.resnet import BasicBlock


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
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
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
