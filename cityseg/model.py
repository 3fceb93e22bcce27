"""The network of the paper (section 1.1): a UNet on a ResNet encoder.

Read `build_unet` for the architecture and `UNet.forward` for the order of things.
"""

import pickle
from http.client import HTTPException
from pathlib import Path
from typing import Final

import safetensors
import safetensors.torch
import torch
import torchvision.models.resnet as resnet
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import get_model, get_model_weights

from cityseg.config import Model
from cityseg.data import sha256_of
from cityseg.errors import InputError
from cityseg.labels import NUM_CLASSES

MIN_INPUT_PX: Final = 32
"""Five halvings: below this the last stage would have no pixel."""

UNREADABLE: Final = (
    OSError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError, EOFError,
    pickle.UnpicklingError, safetensors.SafetensorError,
)  # fmt: skip
"""What the loaders raise on a file that is damaged, foreign, or no file of weights at all."""


class ConvBlock(nn.Sequential):
    """Two 3x3 Conv-BN-ReLU, and a Dropout2d where `dropout` is above 0."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0):
        super().__init__(
            *_conv_bn_relu(in_channels, out_channels),
            *_conv_bn_relu(out_channels, out_channels),
            nn.Dropout2d(dropout) if dropout else nn.Identity(),
        )


class ResNetEncoder(nn.Module):
    """A torchvision ResNet up to its fourth residual stage."""

    def __init__(self, backbone: resnet.ResNet):
        super().__init__()
        self.stem = nn.Sequential(backbone.conv1, backbone.bn1, backbone.relu)
        self.pool = backbone.maxpool
        self.stages = nn.ModuleList(
            [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
        )

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input, finest first."""
        features = [self.stem(image)]  # ResNet-50: 64 channels at 1/2
        x = self.pool(features[0])
        for stage in self.stages:
            x = stage(x)  # 256 at 1/4, 512 at 1/8, 1024 at 1/16, 2048 at 1/32
            features.append(x)
        return features


class UpStage(nn.Module):
    """One decoder stage: upsample, align to the encoder's feature, concatenate, fuse."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
        self.fuse = ConvBlock(in_channels // 2 + skip_channels, out_channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s h2 w2"]
    ) -> Float[Tensor, "b o h2 w2"]:
        """Twice the resolution of x: exactly the skip's."""
        x = resize(self.up(x), skip.shape[-2:])
        return self.fuse(torch.cat([x, skip], dim=1))


class UNet(nn.Module):
    """Encoder, bottleneck, decoder stages with skips, head; all handed in."""

    def __init__(
        self, encoder: nn.Module, bottleneck: nn.Module, decoder: nn.ModuleList, head: nn.Module
    ):
        super().__init__()
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.head = head
        self.supervision: tuple[float, ...] = (1.0,)
        """The weight in the training loss of each of `supervised`'s logits."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 19 h w"]:
        """Class logits at the input's own size, which may be any from 32 px a side, odd or even.

        `image` is RGB, 0-1, normalised by ImageNet's mean and standard deviation.
        """
        *skips, x = self.encoder(image)
        x = self.bottleneck(x)
        for stage in self.decoder:
            x = stage(x, skips.pop())
        return resize(self.head(x), image.shape[-2:])

    def supervised(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b 19 h w"]]:
        """All logits that training compares with the target, the prediction's own first."""
        return [self(image)]


def build_unet(
    encoder: str = "resnet50",
    decoder_width: float = 1.0,
    dropout: float = 0.0,
    classes: int = NUM_CLASSES,
) -> UNet:
    """The paper's UNet for one of torchvision's ResNets, randomly initialised.

    Comments give ResNet-50's channels and resolutions at width 1: 222,985,043 parameters.

    Args:
        encoder: torchvision's name, resnet18 to resnet152.
        decoder_width: factor on the channels of bottleneck, decoder and head.
        dropout: probability of Dropout2d in the bottleneck's blocks.
        classes: number of logits.
    """
    backbone = _resnet(encoder)
    stem, c1, c2, c3, c4 = encoder_channels(backbone)  # 64, 256, 512, 1024, 2048
    mid, d3, d2, d1, d0, out = (even(c * decoder_width) for c in (c4, c3, c2, c1, stem, 32))
    return UNet(
        encoder=ResNetEncoder(backbone),
        bottleneck=nn.Sequential(ConvBlock(c4, mid, dropout), ConvBlock(mid, mid, dropout)),  # 1/32
        decoder=nn.ModuleList(
            [
                UpStage(mid, c3, d3),  # 1024 at 1/16
                UpStage(d3, c2, d2),  # 512 at 1/8
                UpStage(d2, c1, d1),  # 256 at 1/4
                UpStage(d1, stem, d0),  # 64 at 1/2
            ]
        ),
        head=nn.Sequential(
            nn.ConvTranspose2d(d0, out, kernel_size=2, stride=2),  # 32 at 1/1
            nn.Conv2d(out, classes, kernel_size=1),
        ),
    )


def initial_model(settings: Model, seed: int) -> UNet:
    """A network ready to be trained: weights drawn from `seed`, then the encoder's loaded.

    Raises:
        InputError: the encoder's weights are not to be had or are not this encoder's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_unet(settings.encoder, settings.decoder_width, settings.dropout)
    path = encoder_weights(settings)
    if path is not None:
        load_encoder(model, settings.encoder, path)
    return model


def encoder_weights(settings: Model) -> Path | None:
    """The checked file with the encoder's first weights, downloaded if need be; None for `none`.

    Raises:
        InputError: no such file, or its checksum differs; never a silent fall-back.
    """
    if settings.weights == "none":
        return None
    if settings.weights_is_file:
        return _local_weights(Path(settings.weights).expanduser(), settings.weights_sha256)
    return _torchvision_weights(settings.encoder, settings.weights)


def _local_weights(path: Path, sha256: str | None) -> Path:
    if not path.is_file():
        raise InputError(f"model.weights: no file {path}")
    actual = sha256_of(path)
    if actual != sha256:
        raise InputError(
            f"model.weights: checksum of {path}",
            got=actual,
            expected=sha256 or "model.weights_sha256 beside it",
            remedy=f"if it is the file you mean, set model.weights_sha256={actual}",
        )
    return path


def _torchvision_weights(encoder: str, name: str) -> Path:
    """Where torch.hub keeps such a file; fetched there once, its name holds 8 digits of sha256."""
    known = {weights.name: weights for weights in get_model_weights(encoder)}
    if name not in known:
        raise InputError(
            f"model.weights for {encoder}", got=name, expected=f"{', '.join(known)}, none or a file"
        )
    url = known[name].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    digits = path.stem.rpartition("-")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
        except (OSError, HTTPException, RuntimeError) as error:
            # URLError is an OSError; torch.hub raises RuntimeError on a wrong checksum
            raise InputError(
                f"{encoder} {name} weights are not at {path} and could not be downloaded ({error})",
                remedy=f"fetch {url} on a machine with network and copy it there, "
                "or set model.weights=none to train from scratch",
            ) from None
    if not sha256_of(path).startswith(digits):
        raise InputError(f"{path} is damaged", expected=f"sha256 {digits}...", remedy="delete it")
    return path


def load_encoder(model: UNet, encoder: str, path: Path) -> None:
    """Load a ResNet's state dict (torchvision's names; a classifier's `fc` is dropped).

    Raises:
        InputError: not a state dict, or not of this encoder.
    """
    backbone = _resnet(encoder)
    weights = {k: v for k, v in read_weights(path).items() if not k.startswith("fc.")}
    expected = {k: v for k, v in backbone.state_dict().items() if not k.startswith("fc.")}
    check_weights(weights, expected, source=f"{path} for {encoder}")
    backbone.load_state_dict(weights, strict=False)
    model.encoder.load_state_dict(ResNetEncoder(backbone).state_dict())


def read_weights(path: Path) -> dict[str, Tensor]:
    """A flat dict of tensors from a .safetensors or .pth file; nothing in it is ever run.

    Raises:
        InputError: damaged, or holding anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read weights from {path}", got=reason) from None
    tensors = isinstance(weights, dict) and all(isinstance(v, Tensor) for v in weights.values())
    if not tensors:
        raise InputError(f"{path}", got=type(weights).__name__, expected="a dict of tensors")
    return weights


def check_weights(weights: dict[str, Tensor], expected: dict[str, Tensor], source: str) -> None:
    """Refuse weights whose names or shapes are not the expected ones."""
    missing = [k for k in expected if k not in weights and not k.endswith("num_batches_tracked")]
    unknown = [k for k in weights if k not in expected]
    if missing or unknown:
        which = f"lacks {missing[0]}" if missing else f"has an unknown {unknown[0]}"
        raise InputError(
            f"{source}: {len(missing)} missing, {len(unknown)} unknown tensors; {which}"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            shapes = (tuple(tensor.shape), tuple(expected[name].shape))
            raise InputError(f"{source}: shape of {name}", got=shapes[0], expected=str(shapes[1]))


def encoder_channels(backbone: resnet.ResNet) -> list[int]:
    """Channels of the stem and the four stages: what the decoder has to fit."""
    stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    norms = ([m for m in stage.modules() if isinstance(m, nn.BatchNorm2d)] for stage in stages)
    return [backbone.conv1.out_channels, *(stage[-1].num_features for stage in norms)]


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def resize(
    x: Float[Tensor, "b c h w"], size: torch.Size | tuple[int, int]
) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear interpolation to exactly `size` (height, width), corners not aligned.

    Of the same size it is the identity, and skipped: under autocast it would turn to float32.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def even(channels: float) -> int:
    """The nearest even number, at least 2: a transposed convolution halves it."""
    return max(2, 2 * round(channels / 2))


def _resnet(name: str) -> resnet.ResNet:
    backbone = get_model(name, weights=None)
    assert isinstance(backbone, resnet.ResNet)
    return backbone


def _conv_bn_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
