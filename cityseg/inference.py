"""How a frame's scores come from one network or several: views of it, windows over it, a CRF.

Each part takes a way to score an image and is one itself, so they are put into each other
(`scorer`); a part that is set to nothing passes its image on untouched, and the scores with it, to
the bit. Means are means of softmax, and are handed on as their logarithm: log-probabilities are
logits, too, whose arg-max, softmax and interpolation mean the same.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import softmax

from cityseg.config import Inference
from cityseg.crf import refine
from cityseg.model import MIN_INPUT_PX, resize

Scorer = Callable[[UInt8[Tensor, "b 3 h w"]], Float[Tensor, "b c h w"]]
"""From RGB images of 0-255 to class scores at their size: logits, or log-probabilities."""

Refiner = Callable[[Float[Tensor, "b c h w"], UInt8[Tensor, "b 3 h w"]], Float[Tensor, "b c h w"]]
"""From scores and the images that they are of to better scores."""


def scorer(settings: Inference, networks: Sequence[Scorer]) -> Scorer:
    """How images are scored as configured: the mean over all networks, refined.

    Args:
        settings: views, windows and CRF.
        networks: one, or the members of an ensemble.
    """
    members = [viewed(settings, network) for network in networks]
    refined = refiner(settings)
    return lambda image: refined(mean_of_softmax(member(image) for member in members), image)


def viewed(settings: Inference, network: Scorer) -> Scorer:
    """One network's scores: the mean over scaled and mirrored views, each by windows."""
    return Views(Windows(network, settings.window, settings.overlap), views(settings))


def refiner(settings: Inference) -> Refiner:
    """What comes after the mean over views and networks."""
    return lambda scores, image: refine(scores, image, settings.crf)


class View(NamedTuple):
    """One way to look at an image, and back."""

    scale: float
    mirrored: bool

    def of(self, image: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 _ _"]:
        """The image scaled, bilinear as frames are resized, then mirrored left to right."""
        size = [max(MIN_INPUT_PX, round(side * self.scale)) for side in image.shape[-2:]]
        if size != list(image.shape[-2:]):
            image = resize(image.float(), (size[0], size[1])).round().to(torch.uint8)
        return image.flip(-1) if self.mirrored else image

    def back(self, scores: Float[Tensor, "b c _ _"], size: torch.Size) -> Float[Tensor, "b c _ _"]:
        """Scores of the view at the places of the image that it was made of."""
        return resize(scores.flip(-1) if self.mirrored else scores, size)


def views(settings: Inference) -> list[View]:
    """Every scale, and mirrored ones beside them if so configured."""
    sides = (False, True) if settings.flip else (False,)
    return [View(scale, mirrored) for scale in settings.scales for mirrored in sides]


class Views:
    """Test-time augmentation: the mean over views of an image, one after the other."""

    def __init__(self, score: Scorer, views: Sequence[View]):
        self.score = score
        self.views = views

    def __call__(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Scores at the image's own size."""
        size = image.shape[-2:]
        return mean_of_softmax(view.back(self.score(view.of(image)), size) for view in self.views)


class Windows:
    """Overlapping windows, evenly spaced, and the mean of their softmax by Gaussian weights.

    As in nnU-Net (Isensee et al. 2021): a window's pixel counts the less the farther it is from the
    window's middle, as the network has seen less around it. An image that one window covers is
    scored as it is.
    """

    def __init__(self, score: Scorer, size: tuple[int, int] | None, overlap: float):
        self.score = score
        self.size = size
        self.overlap = overlap

    def __call__(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Scores of an image of any size, one window at a time."""
        h, w = image.shape[-2:]
        height, width = (min(pair) for pair in zip(self.size or (h, w), (h, w), strict=True))
        if (height, width) == (h, w):
            return self.score(image)
        weight = gaussian(height, width).to(image.device)
        total: Tensor | None = None
        for rows, columns in self._places(h, w, height, width):
            seen = softmax(self.score(image[..., rows, columns]).float(), 1)
            if total is None:
                total = seen.new_zeros((*seen.shape[:2], h, w))
            total[..., rows, columns].addcmul_(seen, weight)
        assert total is not None
        return _log(total.div_(total.sum(1, keepdim=True)))

    def _places(self, h: int, w: int, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        for top in starts(h, height, self.overlap):
            for left in starts(w, width, self.overlap):
                yield slice(top, top + height), slice(left, left + width)


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along one side: first at the start, last at the end, evenly between.

    Args:
        length: of the side, in pixels, no less than `window`.
        window: its length.
        overlap: least share of a window that the next one covers, too.
    """
    step = max(1, int(window * (1 - overlap)))
    count = -(-(length - window) // step) + 1
    return [round(start) for start in np.linspace(0, length - window, count)]


def gaussian(height: int, width: int) -> Float[Tensor, "{height} {width}"]:
    """Weights of a window's pixels: 1 in the middle, a standard deviation an eighth of the side."""
    rows, columns = (
        torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
        for side in (height, width)
    )
    return rows[:, None] * columns


def mean_of_softmax(scores: Iterable[Float[Tensor, "b c h w"]]) -> Float[Tensor, "b c h w"]:
    """Logarithm of the mean of the scores' softmax, in float32; a single one is left as it is.

    They are taken one at a time, so that memory does not grow with their number.
    """
    rest = iter(scores)
    first = next(rest)
    total: Tensor | None = None
    count = 1
    for count, one in enumerate(rest, start=2):  # noqa: B007 (read after the loop)
        total = softmax(first.float(), 1) if total is None else total
        total += softmax(one.float(), 1)
    return first if total is None else _log(total.div_(count))


def _log(probabilities: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """In place; no probability is so small that its logarithm would be infinite."""
    return probabilities.clamp_(min=torch.finfo(torch.float32).tiny).log_()
