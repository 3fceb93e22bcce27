"""Random changes of training samples, by albumentations, in the paper's order (section 2).

Draws come from (seed, epoch, sample index) alone, so they are the same whatever the number of
workers, and a resumed run needs no generator state.
"""

import random
from collections.abc import Callable
from typing import Final

import albumentations as A
import cv2
import numpy as np
from jaxtyping import UInt8

from cityseg.config import Augment, Data
from cityseg.labels import IGNORE

cv2.setNumThreads(0)  # samples are parallel by process; OpenCV's own threads fight them

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet's, of RGB in 0-1; what torchvision's weights were trained with."""

Image = UInt8[np.ndarray, "h w 3"]
Target = UInt8[np.ndarray, "h w"]
Sample = tuple[UInt8[np.ndarray, "h2 w2 3"], UInt8[np.ndarray, "h2 w2"]]
"""Image and target at the input size."""


class TrainTransform:
    """Random scale, pad to the source size, resize, flip, colour jitter.

    The image stays uint8: normalisation is the model's input step (`samples.normalise`).
    """

    def __init__(self, data: Data):
        self.data = data
        self._by_source: dict[tuple[int, int], A.Compose] = {}

    def __call__(self, image: Image, target: Target, draw: tuple[int, int, int]) -> Sample:
        """Transform a frame and its labels (train ids) together.

        Args:
            image: RGB at the source size.
            target: train ids at the source size.
            draw: (seed, epoch, sample index), from which all randomness is drawn.

        Returns:
            Image and target at the input size; padding is black and has label 255.
        """
        compose = self._compose(image.shape[:2])
        # One pair of generators for all steps: `set_random_seed` would give each step its own
        # with the same seed, and flip and jitter would always happen together.
        key = np.random.SeedSequence(draw)
        compose.set_random_state(
            np.random.default_rng(key), random.Random(key.generate_state(4).tobytes())
        )
        changed = compose(image=image, mask=target)
        return changed["image"], changed["mask"]

    def _compose(self, source: tuple[int, int]) -> A.Compose:
        if source not in self._by_source:
            self._by_source[source] = A.Compose(
                _steps(self.data.augment, source, self.data.input_size)
            )
        return self._by_source[source]


def _steps(
    augment: Augment, source: tuple[int, int], size: tuple[int, int]
) -> list[A.BasicTransform | A.BaseCompose]:
    return [
        A.RandomScale((-augment.scale, augment.scale), p=1),
        A.PadIfNeeded(*source, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE),
        A.Resize(*size),
        A.HorizontalFlip(p=augment.flip),
        A.ColorJitter(
            brightness=augment.brightness,
            contrast=augment.contrast,
            saturation=augment.saturation,
            hue=augment.hue,
            p=augment.jitter,
        ),
    ]


def val_transform(data: Data) -> Callable[[Image, Target], Sample]:
    """Resize alone: bilinear for the image, nearest for the labels."""
    resize = A.Compose([A.Resize(*data.input_size)])

    def transform(image: Image, target: Target) -> Sample:
        changed = resize(image=image, mask=target)
        return changed["image"], changed["mask"]

    return transform
