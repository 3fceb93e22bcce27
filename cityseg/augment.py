"""Random changes of training samples, by albumentations: the paper's (section 2), or crops.

Draws come from (seed, epoch, sample index) alone, so they are the same whatever the number of
workers, and a resumed run needs no generator state.
"""

import random
from typing import Any, Final

import albumentations as A
import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from cityseg.config import Augment, Crop, Data, Distortion
from cityseg.labels import IGNORE

cv2.setNumThreads(0)  # samples are parallel by process; OpenCV's own threads fight them

Image = UInt8[np.ndarray, "h w 3"]
Target = UInt8[np.ndarray, "h w"]
Sample = tuple[UInt8[np.ndarray, "h2 w2 3"], UInt8[np.ndarray, "h2 w2"]]
"""Image and target at the input size."""

Window = tuple[int, int, int, int]
"""Of a frame, in pixels: top, left, height, width."""

LEVELS: Final = np.arange(256, dtype=np.float64)
"""All values of a channel."""


class TrainTransform:
    """The paper's random scale, pad to the source size and resize, or a crop; flip; colours.

    The image stays uint8: normalisation is the model's input step (`inputs.normalise`).
    """

    def __init__(self, data: Data):
        self.data = data
        self._by_source: dict[tuple[int, int], A.Compose] = {}

    def __call__(
        self,
        image: Image,
        target: Target,
        draw: tuple[int, int, int],
        label: int | None = None,
    ) -> Sample:
        """Transform a frame and its labels (train ids) together.

        Args:
            image: RGB at the source size.
            target: train ids at the source size.
            draw: (seed, epoch, sample index), from which all randomness is drawn.
            label: train id that a crop is to show; None, or one that the frame lacks, for any.

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
        changed = compose(image=image, mask=target, label=label)
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


class CropToSize(A.DualTransform):
    """A piece of the frame after a random scale, of the input size: mmsegmentation's random resize
    and random crop, in one.

    Only the piece is resampled: it is cut from the frame as it is, from a window of the input size
    over the scale, and then brought to the input size. A window that is larger than the frame ends
    in padding, below and on the right.
    """

    TRIES: Final = 10
    """Windows looked at, for one in which no class has too much."""

    def __init__(self, crop: Crop, size: tuple[int, int]):
        super().__init__(p=1)
        self.crop = crop
        self.size = size

    @property
    def targets_as_params(self) -> list[str]:
        """What the draw depends on beside the random state."""
        return ["mask", "label"]

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Window]:
        """The first window of ten in which no class has too much, else the tenth."""
        target, label = data["mask"], data["label"]
        scale = self.py_random.uniform(*self.crop.scale)
        height, width = (max(1, round(side / scale)) for side in self.size)
        places = None if label is None else np.flatnonzero(target == label)
        tries = self.TRIES
        while True:
            held = self._pixel(places, target.shape)
            window = self._window(target.shape, (height, width), held)
            tries -= 1
            if tries == 0 or self.crop.cat_max_ratio == 1 or self._is_mixed(target, window):
                return {"window": window}

    def _pixel(self, places: np.ndarray | None, shape: tuple[int, int]) -> tuple[int, int] | None:
        """Row and column of one of these places, each as likely as another; None for none."""
        if places is None or len(places) == 0:
            return None
        row, column = divmod(int(places[self.py_random.randrange(len(places))]), shape[1])
        return row, column

    def _window(
        self, shape: tuple[int, int], extent: tuple[int, int], held: tuple[int, int] | None
    ) -> Window:
        """Anywhere within the frame where it holds the pixel."""
        starts = []
        for axis in range(2):
            first, last = 0, max(0, shape[axis] - extent[axis])
            if held:
                first = min(last, max(first, held[axis] - extent[axis] + 1))
                last = min(last, held[axis])
            starts.append(self.py_random.randint(first, last))
        return (starts[0], starts[1], *extent)

    def _is_mixed(self, target: Target, window: Window) -> bool:
        counts = np.bincount(self.apply_to_mask(target, window).ravel(), minlength=256)[:IGNORE]
        return bool(counts.max() < self.crop.cat_max_ratio * counts.sum())

    def apply(self, img: Image, window: Window, **params: Any) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Bilinear, padded with black."""
        return self._cut(img, window, cv2.INTER_LINEAR, 0)

    def apply_to_mask(
        self, mask: Target, window: Window, **params: Any
    ) -> UInt8[np.ndarray, "h2 w2"]:
        """The nearest pixel's label, padded with the ignored one."""
        return self._cut(mask, window, cv2.INTER_NEAREST, IGNORE)

    def _cut(self, pixels: np.ndarray, window: Window, how: int, fill: int) -> np.ndarray:
        top, left, height, width = window
        piece = pixels[top : top + height, left : left + width]
        below, right = height - piece.shape[0], width - piece.shape[1]
        if below or right:
            border = cv2.BORDER_CONSTANT
            piece = cv2.copyMakeBorder(piece, 0, below, 0, right, border, value=(fill,) * 3)
        if piece.shape[:2] == self.size:
            return piece.copy()
        return cv2.resize(piece, self.size[::-1], interpolation=how)


class Distort(A.ImageOnlyTransform):
    """Photometric distortion (Liu et al. 2016, as in mmsegmentation): brightness, contrast,
    saturation and hue, each to every second sample; the contrast before or after the colours.

    albumentations has no such saturation: its own is added, this is a factor in HSV.
    """

    def __init__(self, strength: Distortion):
        super().__init__(p=1)
        self.strength = strength

    def get_params(self) -> dict[str, Any]:
        """One draw of each; None for what does not happen."""
        limits = self.strength
        return {
            "brightness": self._sometimes(0.0, 255 * limits.brightness),
            "contrast": self._sometimes(1.0, limits.contrast),
            "saturation": self._sometimes(1.0, limits.saturation),
            "hue": self._sometimes(0.0, 180 * limits.hue),
            "contrast_first": self.py_random.random() < 0.5,
        }

    def _sometimes(self, middle: float, reach: float) -> float | None:
        drawn = self.py_random.uniform(middle - reach, middle + reach)
        return drawn if reach and self.py_random.random() < 0.5 else None

    def apply(
        self,
        img: Image,
        brightness: float | None,
        contrast: float | None,
        saturation: float | None,
        hue: float | None,
        contrast_first: bool,
        **params: Any,
    ) -> Image:
        """The distorted image, 0-255."""
        img = _look_up(img, LEVELS + (brightness or 0.0))
        levels = LEVELS * (1.0 if contrast is None else contrast)
        if contrast_first:
            return _colours(_look_up(img, levels), saturation, hue)
        return _look_up(_colours(img, saturation, hue), levels)


def _look_up(image: Image, levels: Float64[np.ndarray, " 256"]) -> Image:
    """Each value replaced; cut off at 0 and 255, and rounded down."""
    return cv2.LUT(image, levels.clip(0, 255).astype(np.uint8))


def _colours(image: Image, saturation: float | None, hue: float | None) -> Image:
    """By HSV as OpenCV has it in 8 bits: hue 0-179, saturation 0-255."""
    if saturation is None and hue is None:
        return image
    same = LEVELS.astype(np.uint8)
    turned = same if hue is None else ((LEVELS + round(hue)) % 180).astype(np.uint8)
    stronger = same if saturation is None else (LEVELS * saturation).clip(0, 255).astype(np.uint8)
    table = np.stack([turned, stronger, same], axis=-1)[None]
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB)


def _steps(
    augment: Augment, source: tuple[int, int], size: tuple[int, int]
) -> list[A.BasicTransform | A.BaseCompose]:
    whole = ScaleToSize(augment.scale, source, size)
    return [
        whole if augment.view == "frame" else CropToSize(augment.crop, size),
        A.HorizontalFlip(p=augment.flip),
        _jitter(augment) if augment.colour == "jitter" else Distort(augment.distortion),
    ]


def _jitter(augment: Augment) -> A.ColorJitter:
    return A.ColorJitter(
        brightness=augment.brightness,
        contrast=augment.contrast,
        saturation=augment.saturation,
        hue=augment.hue,
        p=augment.jitter,
    )
