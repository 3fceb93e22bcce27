"""The same study as a careful researcher writes it in an afternoon: what speed is compared with.

One process, PNG files decoded by Pillow for every sample, albumentations at full resolution,
normalisation on the CPU, eager float32 PyTorch, torchmetrics. Nothing is cached, fused or compiled.
Independent of `cityseg`: nothing of it is imported here.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset
from torchvision.models import get_model

CLASSES: Final = 19
IGNORE: Final = 255

SCORED_IDS: Final = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
"""Label ids of Cityscapes that are scored, in the order of their train ids."""

Pair = tuple[Path, Path]
"""PNG files of a frame and of its label ids."""


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class Up(nn.Module):
    """Transposed convolution, interpolation to the skip's size, concatenation, block."""

    def __init__(self, inputs: int, skip: int, outputs: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
        self.block = conv_block(inputs // 2 + skip, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """At the skip's resolution."""
        x = F.interpolate(self.up(x), size=skip.shape[2:], mode="bilinear", align_corners=False)
        return self.block(torch.cat([x, skip], dim=1))


class PlainUNet(nn.Module):
    """The paper's UNet on a torchvision ResNet, randomly initialised."""

    def __init__(self, encoder: str = "resnet50", width: float = 1.0):
        super().__init__()
        resnet: Any = get_model(encoder, weights=None)
        deepest = resnet.fc.in_features
        c1, c2, c3, c4 = (deepest // 8, deepest // 4, deepest // 2, deepest)
        mid, d3, d2, d1, d0, head = (
            max(2, 2 * round(c * width / 2)) for c in (c4, c3, c2, c1, 64, 32)
        )
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu)
        self.pool = resnet.maxpool
        self.layers = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])
        self.bottleneck = nn.Sequential(conv_block(c4, mid), conv_block(mid, mid))
        self.ups = nn.ModuleList([Up(mid, c3, d3), Up(d3, c2, d2), Up(d2, c1, d1), Up(d1, 64, d0)])
        self.head = nn.Sequential(
            nn.ConvTranspose2d(d0, head, 2, stride=2), nn.Conv2d(head, CLASSES, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits at the image's size."""
        x = self.stem(image)
        skips = [x]
        x = self.pool(x)
        for layer in self.layers:
            x = layer(x)
            skips.append(x)
        x = self.bottleneck(skips.pop())
        for up in self.ups:
            x = up(x, skips.pop())
        return upsampled(self.head(x), *image.shape[2:])


def upsampled(logits: Tensor, h: int, w: int) -> Tensor:
    """Bilinear, corners not aligned."""
    return F.interpolate(logits, size=(h, w), mode="bilinear", align_corners=False)


class PlainFrames(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Normalised image, target at the input size, target at full size; needs albumentations."""

    def __init__(self, pairs: Sequence[Pair], size: tuple[int, int], train: bool):
        self.pairs = pairs
        with Image.open(pairs[0][0]) as first:
            source = (first.height, first.width)
        self.transform = transform_of(source, size, train)
        self.train_ids = np.full(256, IGNORE, np.uint8)
        self.train_ids[list(SCORED_IDS)] = np.arange(CLASSES)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        image_file, label_file = self.pairs[i]
        image = np.array(Image.open(image_file).convert("RGB"))
        full = self.train_ids[np.array(Image.open(label_file))]
        out = self.transform(image=image, mask=full)
        return out["image"], out["mask"].long(), torch.from_numpy(full).long()


def transform_of(source: tuple[int, int], size: tuple[int, int], train: bool) -> Any:
    """The paper's augmentation, or for validation the resize alone; then normalisation."""
    import albumentations as A

    resize = A.Resize(*size)
    normalise = [A.Normalize(), A.ToTensorV2()]
    if not train:
        return A.Compose([resize, *normalise])
    pad = A.PadIfNeeded(*source, border_mode=0, fill=0, fill_mask=IGNORE)
    scale = A.RandomScale(0.2, p=1)
    return A.Compose([scale, pad, resize, A.HorizontalFlip(), A.ColorJitter(), *normalise])


def optimizer_of(model: nn.Module) -> Adam:
    """Adam as it comes."""
    return Adam(model.parameters(), lr=1e-4)


def step(model: nn.Module, optimizer: Optimizer, image: Tensor, target: Tensor) -> float:
    """One training step on float images and int64 targets; returns its loss."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(image), target, ignore_index=IGNORE)
    loss.backward()
    optimizer.step()
    return loss.item()


class Scores:
    """Both mIoUs of a validation, by torchmetrics."""

    def __init__(self, device: torch.device | str = "cpu"):
        from torchmetrics.classification import MulticlassJaccardIndex

        self.low, self.full = (
            MulticlassJaccardIndex(CLASSES, ignore_index=IGNORE).to(device) for _ in range(2)
        )

    def update(self, logits: Tensor, target: Tensor, full: Tensor) -> None:
        """Count a batch: logits at the input size, int64 targets at both sizes."""
        self.low.update(logits.argmax(1), target)
        self.full.update(upsampled(logits, *full.shape[1:]).argmax(1), full)

    def compute(self) -> tuple[float, float]:
        """At the input size and at full size, 0-1."""
        return float(self.low.compute()), float(self.full.compute())


@dataclass(frozen=True)
class PlainEpoch:
    """What an epoch of a fold took and reached."""

    train_s: float
    val_s: float
    val_loss: float
    miou_low: float
    miou_full: float


def fold(
    train: Sequence[Pair],
    val: Sequence[Pair],
    size: tuple[int, int],
    epochs: int,
    batch: int = 2,
    workers: int = 2,
    device: torch.device | str = "cpu",
    encoder: str = "resnet50",
    width: float = 1.0,
) -> Iterator[PlainEpoch]:
    """Train a network and score it after every epoch."""
    loader = DataLoader(
        PlainFrames(train, size, train=True), batch, shuffle=True, drop_last=True,
        num_workers=workers,
    )  # fmt: skip
    check = DataLoader(PlainFrames(val, size, train=False), 1, num_workers=workers)
    torch.manual_seed(0)
    model = PlainUNet(encoder, width).to(device)
    optimizer = optimizer_of(model)
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    for _ in range(epochs):
        started = time.perf_counter()
        model.train()
        for image, target, _full in loader:
            step(model, optimizer, image.to(device), target.to(device))
        trained = time.perf_counter()
        val_loss, low, full = validate(model, check, device)
        plateau.step(val_loss)
        yield PlainEpoch(trained - started, time.perf_counter() - trained, val_loss, low, full)


@torch.no_grad()
def validate(
    model: nn.Module,
    batches: DataLoader[tuple[Tensor, Tensor, Tensor]],
    device: torch.device | str,
) -> tuple[float, float, float]:
    """Mean loss of the batches, and both mIoUs."""
    model.eval()
    scores = Scores(device)
    losses: list[float] = []
    for batch in batches:
        image, target, full = (tensor.to(device) for tensor in batch)
        logits = model(image)
        losses.append(F.cross_entropy(logits, target, ignore_index=IGNORE).item())
        scores.update(logits, target, full)
    return float(np.mean(losses)), *scores.compute()
