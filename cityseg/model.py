"""The network of the paper (section 1.1): a UNet on a ResNet encoder; and what it may be built of.

Read `build_unet` for the architecture and `UNet.forward` for the order of things.
"""

import pickle  # nosec B403 # for the name of an error; nothing is loaded by it
import struct
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Final

import safetensors
import safetensors.torch
import torch
import torchvision.models.resnet as resnet
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from cityseg.attention import SKIPS
from cityseg.blocks import ConvBlock, DeepBlock, DualBlock, even, resize
from cityseg.config import Model
from cityseg.context import AtrousPyramid, PyramidPooling
from cityseg.data import resolved, sha256_of
from cityseg.errors import InputError
from cityseg.fusion import FeaturePyramid, Finest
from cityseg.labels import NUM_CLASSES
from cityseg.normalisation import normalise_by
from cityseg.supervision import Supervisors

MIN_INPUT_PX: Final = 32
"""Five halvings: below this the last stage would have no pixel."""

PAPER: Final = Model()
"""The paper's network: all settings at their defaults."""

Part = Callable[[int, int], nn.Module]
"""Makes a module of two numbers of channels."""

UNREADABLE: Final = (
    OSError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError, EOFError,
    pickle.UnpicklingError, safetensors.SafetensorError, struct.error, OverflowError,
)  # fmt: skip
"""What the loaders raise on a file that is damaged, foreign, or no file of weights at all."""


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


class PlainEncoder(nn.Module):
    """Ronneberger's contracting path: a ConvBlock at each resolution, halved by max-pooling."""

    def __init__(self, *channels: int):
        super().__init__()
        self.blocks = nn.ModuleList(map(ConvBlock, (3, *channels), channels))
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features at 1/1, 1/2, 1/4 and 1/8 of the input, and the last one pooled, at 1/16."""
        features, x = [], image
        for block in self.blocks:
            features.append(block(x))
            x = self.pool(features[-1])
        return [*features, x]


class UpStage(nn.Module):
    """One decoder stage: upsample, align to the encoder's feature, concatenate, fuse.

    Args:
        in_channels: of what comes from below.
        skip_channels: of the encoder's feature.
        out_channels: of the stage.
        skip: makes what the feature passes through, of its channels and those from below.
        block: makes what fuses both, of its channels.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, *, skip: Part, block: Part
    ):
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
        self.fuse = block(in_channels // 2 + skip_channels, out_channels)
        self.skip = skip(skip_channels, in_channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s h2 w2"]
    ) -> Float[Tensor, "b o h2 w2"]:
        """Twice the resolution of x: exactly the skip's."""
        up = resize(self.up(x), skip.shape[-2:])
        return self.fuse(torch.cat([up, self.skip(skip, x)], dim=1))


class UNet(nn.Module):
    """Encoder, bottleneck, decoder stages with skips, fusion, head; all handed in.

    `supervisors` are heads for training alone, on the features of encoder and decoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        bottleneck: nn.Module,
        decoder: nn.ModuleList,
        fusion: nn.Module,
        head: nn.Module,
        supervisors: Supervisors,
    ):
        super().__init__()
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.fusion = fusion
        self.head = head
        self.supervisors = supervisors
        self.supervision: tuple[float, ...] = (1.0, *supervisors.weights)
        """The weight in the training loss of each of `supervised`'s logits."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 19 h w"]:
        """Class logits at the input's own size, which may be any from 32 px a side, odd or even.

        `image` is RGB, 0-1, normalised by ImageNet's mean and standard deviation.
        """
        outputs = self.decode(self.encoder(image))
        return resize(self.head(self.fusion(outputs)), image.shape[-2:])

    def supervised(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b 19 h w"]]:
        """All logits that training compares with the target, the prediction's own first."""
        features = self.encoder(image)
        outputs = self.decode(features)
        logits = [self.head(self.fusion(outputs)), *self.supervisors(features, outputs)]
        return [resize(each, image.shape[-2:]) for each in logits]

    def decode(self, features: list[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b _ _ _"]]:
        """The decoder's outputs, coarsest first, from the encoder's features, finest first."""
        *skips, x = features
        x = self.bottleneck(x)
        outputs = []
        for stage in self.decoder:
            x = stage(x, skips.pop())
            outputs.append(x)
        return outputs


def build_unet(settings: Model = PAPER, classes: int = NUM_CLASSES) -> UNet:
    """A UNet on one of torchvision's ResNets, randomly initialised; by default the paper's.

    Comments give ResNet-50's channels and resolutions at width 1: 222,985,043 parameters.
    """
    backbone = _resnet(settings.encoder)
    stem, c1, c2, c3, c4 = encoder_channels(backbone)  # 64, 256, 512, 1024, 2048
    mid, d3, d2, d1, d0, out = _widths(settings, c4, c3, c2, c1, stem, 32)
    stage = _stage(settings)
    return UNet(
        encoder=ResNetEncoder(backbone),
        bottleneck=_context(settings, DualBlock, stride=32)(c4, mid),  # 2048 at 1/32
        decoder=nn.ModuleList(
            [
                stage(mid, c3, d3),  # 1024 at 1/16
                stage(d3, c2, d2),  # 512 at 1/8
                stage(d2, c1, d1),  # 256 at 1/4
                stage(d1, stem, d0),  # 64 at 1/2
            ]
        ),
        fusion=_fusion(settings, d3, d2, d1, d0),
        head=nn.Sequential(
            nn.ConvTranspose2d(d0, out, kernel_size=2, stride=2),  # 32 at 1/1
            nn.Conv2d(out, classes, kernel_size=1),
        ),
        supervisors=_supervisors(settings, c3, (d3, d2, d1), classes),
    )


def build_vanilla(settings: Model, classes: int = NUM_CLASSES) -> UNet:
    """The UNet of Ronneberger et al. 2015, fig. 1, randomly initialised.

    Comments give the channels and resolutions at width 1, a factor on all of them: 31,038,803
    parameters. As in most of its later versions, convolutions are padded, so that nothing is
    cropped, and have batch norm. Its decoder ends at full resolution, so that the head is the last
    layer of the paper's alone. Against the paper's network: -191.95 M parameters, +108.2 GFLOP.
    """
    e0, e1, e2, e3, mid = _widths(settings, 64, 128, 256, 512, 1024)
    stage = _stage(settings)
    return UNet(
        encoder=PlainEncoder(e0, e1, e2, e3),  # at 1/1, 1/2, 1/4, 1/8
        bottleneck=_context(settings, ConvBlock, stride=16)(e3, mid),  # 1024 at 1/16
        decoder=nn.ModuleList(
            [
                stage(mid, e3, e3),  # 512 at 1/8
                stage(e3, e2, e2),  # 256 at 1/4
                stage(e2, e1, e1),  # 128 at 1/2
                stage(e1, e0, e0),  # 64 at 1/1
            ]
        ),
        fusion=_fusion(settings, e3, e2, e1, e0),
        head=nn.Sequential(nn.Conv2d(e0, classes, kernel_size=1)),
        supervisors=_supervisors(settings, e3, (e3, e2, e1), classes),
    )


def network(settings: Model = PAPER, classes: int = NUM_CLASSES) -> UNet:
    """The network that a configuration describes, randomly initialised.

    Built with batch norm throughout, which is then replaced: first weights are the same by any.
    """
    build = build_vanilla if settings.encoder == "vanilla" else build_unet
    model = build(settings, classes)
    for name, part in model.named_children():
        own = settings.encoder_normalisation if name == "encoder" else settings.normalisation
        normalise_by(part, own)
    return model


def _widths(settings: Model, *channels: int) -> list[int]:
    return [even(c * settings.decoder_width) for c in channels]


def _stage(settings: Model) -> Callable[[int, int, int], UpStage]:
    """Makes a decoder stage of the configured parts, of channels from below, skip and own."""
    deep = partial(DeepBlock, blocks=settings.decoder_blocks)
    block = ConvBlock if settings.decoder_blocks == 1 else deep
    return partial(UpStage, skip=SKIPS[settings.skip], block=block)


def _context(settings: Model, blocks: type[DualBlock | ConvBlock], stride: int) -> Part:
    """Makes the configured bottleneck; `blocks` is the architecture's own."""
    parts: dict[str, Part] = {
        "blocks": partial(blocks, dropout=settings.dropout),
        "ppm": PyramidPooling,
        "aspp": partial(AtrousPyramid, stride=stride),
    }
    return parts[settings.context]


def _fusion(settings: Model, *channels: int) -> nn.Module:
    return FeaturePyramid(channels) if settings.fusion == "pyramid" else Finest()


def _supervisors(
    settings: Model, encoder_channels: int, decoder_channels: tuple[int, ...], classes: int
) -> Supervisors:
    weights = settings.auxiliary, settings.deep_supervision
    return Supervisors(encoder_channels, decoder_channels, classes, *weights)


def initial_model(settings: Model, seed: int) -> UNet:
    """A network ready to be trained: weights drawn from `seed`, then the encoder's loaded.

    Raises:
        InputError: the encoder's weights are not to be had or are not this encoder's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(settings)
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
        return _local_weights(resolved(Path(settings.weights)), settings.weights_sha256)
    return _torchvision_weights(settings.encoder, settings.weights)


def _local_weights(path: Path, sha256: str | None) -> Path:
    if not path.is_file():
        raise InputError(
            f"model.weights: no file {path}",
            expected="IMAGENET1K_V1, none, or the path of a file",
        )
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
            refuse_pickle(path)
            return safetensors.torch.load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"cannot read weights from {path}", got=why_unreadable(error)) from None
    tensors = isinstance(weights, dict) and all(isinstance(v, Tensor) for v in weights.values())
    if not tensors:
        raise InputError(f"{path}", got=type(weights).__name__, expected="a dict of tensors")
    return weights


def refuse_pickle(path: Path) -> None:
    """Refuse what is named .safetensors and is a pickle, plain or in PyTorch's archive.

    Raises:
        InputError: it is one.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise InputError(f"{path}", got="a pickle (a .pt or .pth file)", expected="safetensors")


def why_unreadable(error: Exception) -> str:
    """The first line of a loader's complaint, without PyTorch's advice to trust the file."""
    if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
        return "a pickle of more than tensors and plain data, which could run code"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def check_weights(weights: dict[str, Tensor], expected: dict[str, Tensor], source: str) -> None:
    """Refuse weights whose names or shapes are not the expected ones, or that hold a NaN."""
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
        if not torch.isfinite(tensor).all():
            raise InputError(f"{source}: values of {name}", got="NaN or inf", expected="numbers")


def encoder_channels(backbone: resnet.ResNet) -> list[int]:
    """Channels of the stem and the four stages: what the decoder has to fit."""
    stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    norms = ([m for m in stage.modules() if isinstance(m, nn.BatchNorm2d)] for stage in stages)
    return [backbone.conv1.out_channels, *(stage[-1].num_features for stage in norms)]


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _resnet(name: str) -> resnet.ResNet:
    backbone = get_model(name, weights=None)
    assert isinstance(backbone, resnet.ResNet)
    return backbone
