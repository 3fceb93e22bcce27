"""What the network is given: batches of 8-bit images and train ids, resized and normalised."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cityseg.config import Config

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet's, of RGB in 0-1; what torchvision's weights were trained with."""


@dataclass(frozen=True)
class TrainBatch:
    """Augmented samples."""

    image: UInt8[Tensor, "b 3 h w"]
    target: UInt8[Tensor, "b h w"]
    made_s: float = 0.0
    """Seconds that a process worked on these samples."""

    def pin_memory(self) -> "TrainBatch":
        """For the loader: copies to the device may then overlap."""
        return TrainBatch(self.image.pin_memory(), self.target.pin_memory(), self.made_s)


@dataclass(frozen=True)
class ValBatch:
    """Validation samples, with their labels at both resolutions."""

    names: list[str]
    image: UInt8[Tensor, "b 3 _ _"]
    """What the network sees: at the input size, or at a frame's own."""
    target: UInt8[Tensor, "b h w"]
    """At the input size."""
    full_targets: list[UInt8[Tensor, "_ _"]]
    """At each frame's own size, which may differ from frame to frame; none where only the input
    size is scored."""

    def to(self, device: torch.device) -> "ValBatch":
        """On the device, without waiting for it."""
        image, target, *full = (
            part.to(device, non_blocking=True)
            for part in (self.image, self.target, *self.full_targets)
        )
        return ValBatch(self.names, image, target, full)

    def pin_memory(self) -> "ValBatch":
        """For the loader: copies to the device may then overlap."""
        full = [target.pin_memory() for target in self.full_targets]
        return ValBatch(self.names, self.image.pin_memory(), self.target.pin_memory(), full)


def resized(
    image: UInt8[np.ndarray, "h w 3"], target: UInt8[np.ndarray, "h w"], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], UInt8[np.ndarray, "h2 w2"]]:
    """At the input size (height, width), as for validation: the image bilinear, labels by nearest.

    Of the same size they are returned as they are.
    """
    if image.shape[:2] == size:
        return image, target
    labels = cv2.resize(target, size[::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), labels


def seen(image: UInt8[np.ndarray, "h w 3"], config: Config) -> UInt8[np.ndarray, "h2 w2 3"]:
    """What the network sees of a frame: resized to the input size, or the frame itself."""
    if config.inference.input == "native":
        return image
    return resized(image, np.zeros(image.shape[:2], np.uint8), config.data.input_size)[0]


def normalise(image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """0-255 to zero mean and unit variance by ImageNet's statistics, on the image's device.

    In memory as convolutions of that device want it: channels last on a GPU, else first.
    """
    layout = torch.channels_last if image.is_cuda else torch.contiguous_format
    mean, std = (_a_channel(values, image.device) for values in (MEAN, STD))
    return (image.to(torch.float32, memory_format=layout) - mean) / std


def _a_channel(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "3 1 1"]:
    """Made on the device: a copy to it would be waited for, and cannot be recorded."""
    numbers = torch.stack([torch.full((), value, device=device) for value in values])
    return numbers.mul(255)[:, None, None]
