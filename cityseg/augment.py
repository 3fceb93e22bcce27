"""Random changes of training samples, by albumentations, in the paper's order (section 2).

Draws come from (seed, epoch, sample index) alone, so they are the same whatever the number of
workers, and a resumed run needs no generator state.
"""

import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
from jaxtyping import UInt8

from cityseg.config import Augment, Data
from cityseg.labels import IGNORE

cv2.setNumThreads(0)  # samples are parallel by process; OpenCV's own threads fight them

Image = UInt8[np.ndarray, "h w 3"]
Target = UInt8[np.ndarray, "h w"]
Sample = tuple[UInt8[np.ndarray, "h2 w2 3"], UInt8[np.ndarray, "h2 w2"]]
"""Image and target at the input size."""


class TrainTransform:
    """Random scale, pad to the source size, resize, flip, colour jitter.

    The image stays uint8: normalisation is the model's input step (`inputs.normalise`).
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


class ScaleToSize(A.DualTransform):
    """Random scale, pad to the source size, resize: albumentations' three steps, in one.

    The same draw and the same resamplings as `RandomScale`, `PadIfNeeded` and `Resize`, so the
    same sample to the bit, in two thirds of the time. One resampling from source to input size
    would be faster still, but is another sample: see `python -m benchmarks.data`.
    """

    def __init__(self, scale: float, source: tuple[int, int], size: tuple[int, int]):
        super().__init__(p=1)
        self.scale = scale
        self.source = source
        self.size = size

    def get_params(self) -> dict[str, float]:
        """A factor, from 1 - scale to 1 + scale."""
        return {"factor": self.py_random.uniform(-self.scale, self.scale) + 1.0}

    def apply(self, img: Image, factor: float, **params: Any) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Bilinear, padded with black."""
        return self._resample(img, factor, cv2.INTER_LINEAR, 0)

    def apply_to_mask(
        self, mask: Target, factor: float, **params: Any
    ) -> UInt8[np.ndarray, "h2 w2"]:
        """The nearest pixel's label, padded with the ignored one."""
        return self._resample(mask, factor, cv2.INTER_NEAREST, IGNORE)

    def _resample(self, pixels: np.ndarray, factor: float, how: int, fill: int) -> np.ndarray:
        h, w = (int(side * factor) for side in self.source)
        if (h, w) != self.source:
            pixels = cv2.resize(pixels, (w, h), interpolation=how)
        above, left = (max(0, s - p) // 2 for s, p in zip(self.source, (h, w), strict=True))
        below, right = max(0, self.source[0] - h) - above, max(0, self.source[1] - w) - left
        if above or below or left or right:
            value = (fill,) * 3
            border = cv2.BORDER_CONSTANT
            pixels = cv2.copyMakeBorder(pixels, above, below, left, right, border, value=value)
        if pixels.shape[:2] == self.size:
            return pixels
        return cv2.resize(pixels, self.size[::-1], interpolation=how)


def _steps(
    augment: Augment, source: tuple[int, int], size: tuple[int, int]
) -> list[A.BasicTransform | A.BaseCompose]:
    return [
        ScaleToSize(augment.scale, source, size),
        A.HorizontalFlip(p=augment.flip),
        A.ColorJitter(
            brightness=augment.brightness,
            contrast=augment.contrast,
            saturation=augment.saturation,
            hue=augment.hue,
            p=augment.jitter,
        ),
    ]
