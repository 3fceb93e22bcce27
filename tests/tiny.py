"""A city, a configuration and an encoder small enough to train within a test."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from cityseg.config import Config, parse
from cityseg.data import IMAGE_SUFFIX, LABEL_SUFFIX, Frame
from cityseg.inputs import normalise
from cityseg.labels import LABELS
from cityseg.model import UNet, initial_model

CITIES: Final = ("aachen", "bochum", "ulm")
FRAMES_PER_CITY: Final = 4
FRAME_SIZE: Final = (64, 128)

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "data": {"input_size": [32, 64]},
    "model": {"encoder": "resnet18", "weights": "none", "decoder_width": 0.125},
    "train": {"epochs": 3, "batch_size": 2, "precision": "float32"},
    "evaluate": {"predictions": 2},
    "resources": {"workers": 0},
}


def tiny_config(seed: int = 0, **sections: dict[str, Any]) -> Config:
    """A configuration that trains in seconds; `tiny_config(train={"lr": 1e-3})` changes a key."""
    keys = {*SETTINGS, *sections}
    merged = {key: {**SETTINGS.get(key, {}), **sections.get(key, {})} for key in keys}
    return parse({"seed": seed, **merged}, source="a test")


def thin_resnet(*_: object, **__: object) -> ResNet:
    """Stands for torchvision's `get_model`: one block a stage, of 8 to 64 channels.

    A ResNet-18 in training state is 180 MB, too much to be written after each of a test's epochs.
    """
    backbone = ResNet(BasicBlock, [1, 1, 1, 1])
    backbone.inplanes = 8
    backbone.conv1 = nn.Conv2d(3, 8, kernel_size=7, stride=2, padding=3, bias=False)
    backbone.bn1 = nn.BatchNorm2d(8)
    for i, channels in enumerate((8, 16, 32, 64)):
        stage = backbone._make_layer(BasicBlock, channels, 1, stride=2 if i else 1)
        setattr(backbone, f"layer{i + 1}", stage)
    return backbone


def write_city(root: Path) -> Path:
    """Write 3 cities x 4 frames of 64x128 in the `train` split."""
    for c, city in enumerate(CITIES):
        for i in range(FRAMES_PER_CITY):
            write_frame(root, "train", f"{city}_{i:06}_000019", *scene(10 * c + i))
    return root


def write_frame(
    root: Path, split: str, name: str, image: np.ndarray, label_ids: np.ndarray
) -> Frame:
    """Write one frame in the Cityscapes layout."""
    city = name.rsplit("_", 2)[0]
    image_file = root / "leftImg8bit" / split / city / f"{name}{IMAGE_SUFFIX}"
    label_file = root / "gtFine" / split / city / f"{name}{LABEL_SUFFIX}"
    for file, array in ((image_file, image), (label_file, label_ids)):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)
    return Frame(name, city, image_file, label_file)


def opinionated(config: Config, seed: int = 3) -> UNet:
    """An untrained network whose answer changes from pixel to pixel, as it would after training."""
    model = initial_model(config.model, seed).eval()
    images = np.stack([scene(seed, (32, 64))[0] for seed in range(4)])
    weight, bias = list(model.head.parameters())[-2:]
    with torch.no_grad():
        logits = model(normalise(torch.from_numpy(images).permute(0, 3, 1, 2)))
        spread, mean = torch.std_mean(logits, (0, 2, 3))
        bias.sub_(mean).div_(spread)  # every class has the same mean and spread
        weight.div_(spread[:, None, None, None])
    return model


def scene(
    seed: int, size: tuple[int, int] = FRAME_SIZE
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Boxes of random label ids on road and sky, each in its label's colour with some noise."""
    random = np.random.default_rng(seed)
    h, w = size
    label_ids = np.full(size, 7, np.uint8)
    label_ids[: h // 3] = 23
    for _ in range(8):
        top, left = random.integers(0, h - 8), random.integers(0, w - 8)
        label_ids[top : top + h // 3, left : left + w // 5] = random.integers(0, len(LABELS))
    colors = np.array([label.color for label in LABELS])
    noisy = colors[label_ids] + random.normal(0, 12, (h, w, 3))
    return noisy.clip(0, 255).astype(np.uint8), label_ids
